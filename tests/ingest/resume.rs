//! A run that was cut off anywhere goes on and gives the same files; another run is refused.

use std::fs;
use std::path::Path;

use gigastore_ingest::input::{Format, Reading, Split};
use gigastore_ingest::run::{Counters, run};
use gigastore_ingest::work::{Work, WorkError};

use crate::desk::{Desk, WORDS};

/// A corpus of every kind of input, some bad documents among it.
fn desk() -> (Desk, Reading) {
    let mut desk = Desk::new();
    desk.part_bytes = 100_000;
    let text = |seed: usize| {
        let word = |n: usize| WORDS[2 + (n * n + seed) % 6];
        let line = |n: usize| (0..20 + n * 7 % 90).map(|w| word(n + w)).collect::<Vec<_>>().join(" ");
        (0..6000).map(|n| if n % 1000 == 3 { "\u{1}bad".to_owned() } else { line(n) }).collect::<Vec<_>>()
    };
    let bad = |line: &String| if line.ends_with("bad") { b"\xff".to_vec() } else { line.clone().into_bytes() };
    let lines = |seed| text(seed).iter().map(bad).collect::<Vec<_>>().join(&b'\n');
    let json = |seed| {
        let line =
            |line: &String| if line.ends_with("bad") { "[]".to_owned() } else { format!("{{\"text\":\"{line}\"}}") };
        text(seed).iter().map(line).collect::<Vec<_>>().join("\n").into_bytes()
    };
    desk.write("corpus/a.txt", &lines(1));
    desk.write_gz("corpus/b.txt.gz", &lines(2));
    desk.write("corpus/c.jsonl", &json(3));
    desk.write_zst("corpus/d.jsonl.zst", &json(4));
    for n in 0..50 {
        desk.write(&format!("corpus/e/{n:02}.txt"), format!("that {n}").as_bytes());
    }
    (desk, Reading { split: Split::Lines, skip_bad: true, ..Reading::default() })
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    found.sort();
    found
}

#[test]
fn a_run_goes_on_after_any_finished_part() {
    let (desk, reading) = desk();
    let spec = desk.spec(&["corpus"], &reading);
    let folder = desk.path("work");
    let mut work = Work::open(&folder, &spec.plan(), false).unwrap();
    let whole = run(&spec, &mut work, &Counters::default()).unwrap();
    assert!(whole.parts.len() > 8 && whole.counts.skipped.documents == 24, "{:?}", whole.counts);
    let (parts, journal) = (files(&work.parts()), fs::read_to_string(folder.join("parts.jsonl")).unwrap());
    drop(work);
    let lines: Vec<&str> = journal.split_inclusive('\n').collect();
    for kept in 0..lines.len() {
        // What a kill leaves: a torn line, the part that it was about, half of the next one.
        let torn = &lines[kept][..lines[kept].len() / 2];
        fs::write(folder.join("parts.jsonl"), [&lines[..kept].concat(), torn].concat()).unwrap();
        parts.iter().skip(kept + 1).for_each(|(name, _)| fs::remove_file(folder.join("parts").join(name)).unwrap());
        fs::write(folder.join("unfinished"), b"half of a part").unwrap();
        let mut work = Work::open(&folder, &spec.plan(), false).unwrap();
        assert_eq!(work.finished().len(), kept.min(parts.len()));
        let counters = Counters::default();
        let again = run(&spec, &mut work, &counters).unwrap();
        assert!(files(&work.parts()) == parts, "after {kept} parts");
        assert_eq!((again.parts_before, &again.counts), (kept, &whole.counts));
        assert_eq!(fs::read_to_string(folder.join("parts.jsonl")).unwrap(), journal);
        let seen = counters.snapshot();
        assert_eq!((seen.documents, seen.tokens), (whole.counts.documents, whole.counts.tokens));
    }
}

#[test]
fn a_parquet_file_goes_on_in_the_middle() {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, RecordBatch, StringArray};

    let (desk, _) = desk();
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..20_000).map(|n| "be ".repeat(1 + n % 50))));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(3000))
        .set_data_page_row_count_limit(100)
        .build();
    let file = fs::File::create(desk.path("t.parquet")).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let spec = desk.spec(&["t.parquet"], &Reading { format: Some(Format::Parquet), ..Reading::default() });
    let folder = desk.path("work");
    let mut work = Work::open(&folder, &spec.plan(), false).unwrap();
    let whole = run(&spec, &mut work, &Counters::default()).unwrap();
    assert!(whole.parts.len() > 3, "{} parts", whole.parts.len());
    let (parts, journal) = (files(&work.parts()), fs::read_to_string(folder.join("parts.jsonl")).unwrap());
    drop(work);
    for kept in 0..parts.len() {
        fs::write(folder.join("parts.jsonl"), journal.split_inclusive('\n').take(kept).collect::<String>()).unwrap();
        let mut work = Work::open(&folder, &spec.plan(), false).unwrap();
        run(&spec, &mut work, &Counters::default()).unwrap();
        assert!(files(&work.parts()) == parts, "after {kept} parts");
    }
}

#[test]
fn another_run_is_refused_and_says_what_differs() {
    let (mut desk, reading) = desk();
    let folder = desk.path("work");
    let plan = desk.spec(&["corpus"], &reading).plan();
    let work = Work::open(&folder, &plan, false).unwrap();
    assert!(matches!(Work::open(&folder, &plan, false), Err(WorkError::Busy { .. })));
    drop(work);
    let refused = |plan| Work::open(&folder, &plan, false).unwrap_err().to_string();
    let other = Reading { skip_bad: false, ..reading.clone() };
    let said = refused(desk.spec(&["corpus"], &other).plan());
    assert!(said.contains("another --skip-bad: then true, now false") && said.contains("--restart"), "{said}");
    let said = refused(desk.spec(&["corpus/a.txt"], &reading).plan());
    assert!(said.contains("then 54 inputs, now 1 inputs"), "{said}");
    desk.write("corpus/e/07.txt", b"changed");
    let said = refused(desk.spec(&["corpus"], &reading).plan());
    assert!(said.contains("another input") && said.contains("07.txt"), "{said}");
    desk.part_bytes = 7;
    let plan = desk.spec(&["corpus"], &reading).plan();
    assert!(refused(plan.clone()).contains("another --part-bytes: then 100000, now 7"));
    Work::open(&folder, &plan, true).unwrap();
}

#[test]
fn a_damaged_part_is_not_taken_for_finished() {
    let (desk, reading) = desk();
    let spec = desk.spec(&["corpus"], &reading);
    let folder = desk.path("work");
    let mut work = Work::open(&folder, &spec.plan(), false).unwrap();
    let done = run(&spec, &mut work, &Counters::default()).unwrap();
    drop(work);
    let path = folder.join("parts").join(&done.parts[2].name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let damaged = Work::open(&folder, &spec.plan(), false).unwrap_err();
    assert!(matches!(damaged, WorkError::Damaged { .. }) && damaged.to_string().contains("part-00002.parquet"));
    // Begun anew, the old parts are gone; files that are not of the run stay.
    fs::write(folder.join("mine"), b"x").unwrap();
    let work = Work::open(&folder, &spec.plan(), true).unwrap();
    assert!(files(&work.parts()).is_empty());
    work.remove().unwrap();
    assert_eq!(files(&folder).len(), 1);
}

#[test]
fn an_input_that_changes_while_it_is_read_is_noticed() {
    let (desk, reading) = desk();
    let spec = desk.spec(&["corpus"], &reading);
    desk.write("corpus/c.jsonl", b"{\"text\": \"be\"}");
    let mut work = Work::open(&desk.path("work"), &spec.plan(), false).unwrap();
    let error = run(&spec, &mut work, &Counters::default()).unwrap_err().to_string();
    assert!(error.contains("c.jsonl changed while it was read"), "{error}");
}
