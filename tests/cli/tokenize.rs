//! `gigastore data tokenize` and `data head`: a real corpus, a real tokenizer, killed and gone on with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gigastore_tests::prepared::{model, texts};
use serde_json::json;

use crate::run::{Desk, Said};

fn tokenizer() -> String {
    model().unwrap_or_else(|error| panic!("{error}")).join("tokenizer.json").display().to_string()
}

fn addresses() -> PathBuf {
    texts().unwrap_or_else(|error| panic!("{error}"))
}

fn blake3_of(bytes: &[u8]) -> String {
    gigastore_formats::digest::Digest::of(bytes).to_string()
}

/// Runs a command with `input` on its stdin.
fn fed(desk: &Desk, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = desk.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(input);
    // One who refuses what comes does not read it to its end.
    assert!(written.is_ok() || written.is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe));
    Said::of(child.wait_with_output().unwrap())
}

#[test]
fn documents_are_tokenized_pushed_and_shown() {
    let desk = Desk::new();
    let (tokenizer, texts) = (tokenizer(), addresses());
    let glob = format!("{}/198*.txt", texts.display());
    let command = ["data", "tokenize", &glob, "--tokenizer", &tokenizer, "--to", "demo/sotu", "--work", "work"];
    let missing = desk.fails(1, &command, &["does not say which token ends a text", "--eos none"]);
    assert!(missing.contains("tokenizer.json"), "{missing}");
    let command = [&command[..], &["--eos", "[SEP]", "--tag", "first"]].concat();
    let would = desk.ok(&[&command[..], &["--dry-run"]].concat());
    assert!(would.contains("would tokenize") && would.contains("30522 tokens as u16, bos none, eos [SEP] (102)"));
    assert!(!desk.path("store").exists() && !desk.path("work").exists());
    let made = desk.json(&command);
    assert_eq!((&made["version"], &made["width"], &made["eos"]["id"]), (&json!(1), &json!("u16"), &json!(102)));
    assert!(made["documents"].as_u64().unwrap() > 9 && made["tokens"].as_u64().unwrap() > 50_000, "{made}");
    assert!(!desk.path("work").exists(), "nothing is left when all is done");
    let again = desk.json(&command);
    assert_eq!((&again["version"], &again["existed"], &again["bytes_sent"]), (&json!(1), &json!(true), &json!(0)));

    let head = desk.ok(&["data", "head", "demo/sotu", "-n", "1", "--tokenizer", &tokenizer]);
    let first = fs::read_dir(&texts).unwrap().map(|entry| entry.unwrap().path());
    let first = first.filter(|path| path.to_str().unwrap().contains("/198") && path.extension().unwrap() == "txt");
    let first = first.min().unwrap();
    let text = fs::read_to_string(&first).unwrap().to_lowercase();
    let words: Vec<&str> = text.split_whitespace().take(3).map(|word| word.trim_matches([',', '.', ':'])).collect();
    let id = &blake3_of(&fs::read(&first).unwrap())[..32];
    assert!(head.starts_with(&format!("part-00000.parquet row 0, id {id}, ")), "{head}");
    assert!(words.iter().all(|word| head.contains(word)), "{words:?}: {head}");
    let json = desk.json(&["data", "head", "demo/sotu", "-n", "2", "--tokenizer", &tokenizer]);
    assert_eq!(json["documents"].as_array().unwrap().len(), 2);
    assert_eq!(json["documents"][1]["tokens"].as_array().unwrap().len(), 256);

    let other = desk.path("other.json");
    fs::write(&other, [fs::read(&tokenizer).unwrap(), b"\n".to_vec()].concat()).unwrap();
    let other = other.display().to_string();
    desk.fails(1, &["data", "head", "demo/sotu", "--tokenizer", &other], &["is not the tokenizer", "expected BLAKE3"]);
    desk.fails(4, &["data", "head", "demo/sotu", "--file", "part-0000.parquet"], &["did you mean part-00000.parquet"]);
}

#[test]
fn a_killed_run_goes_on_and_makes_the_same_files() {
    let (killed, whole) = (Desk::new(), Desk::new());
    let (tokenizer, texts) = (tokenizer(), addresses().display().to_string());
    let corpus = format!("{texts}/1[789]*.json");
    let command = [
        "data",
        "tokenize",
        &corpus,
        "--tokenizer",
        &tokenizer,
        "--to",
        "demo/sotu",
        "--eos",
        "none",
        "--work",
        "work",
        "--part-mib",
        "1",
    ];
    let mut child = killed.command(&command).spawn().unwrap();
    let journal = killed.path("work/parts.jsonl");
    // The kill comes at some moment after the first part.
    while !fs::read(&journal).is_ok_and(|lines| !lines.is_empty()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.files("work/parts").is_empty());
    let changed = [&command[..], &["--id-field", "name"]].concat();
    killed.fails(8, &changed, &["another --id-field: then none, now name", "--restart"]);
    let made = killed.json(&command);
    assert!(made["files_before"].as_u64().unwrap() >= 1, "{made}");
    let once = whole.json(&command);
    assert_eq!(once["files_before"], 0);
    assert_eq!(
        (&made["content"], &made["documents"], &made["tokens"]),
        (&once["content"], &once["documents"], &once["tokens"])
    );
}

#[test]
fn stdin_goes_on_where_the_same_bytes_come_again() {
    let (killed, whole) = (Desk::new(), Desk::new());
    let tokenizer = tokenizer();
    let mut text = Vec::new();
    let mut files: Vec<_> = fs::read_dir(addresses()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|path| path.extension().unwrap() == "txt").take(140) {
        text.extend(fs::read(file).unwrap());
        text.push(b'\n');
    }
    let command = [
        "data",
        "tokenize",
        "-",
        "--input-format",
        "text",
        "--split",
        "lines",
        "--tokenizer",
        &tokenizer,
        "--to",
        "demo/stdin",
        "--eos",
        "none",
        "--work",
        "work",
        "--part-mib",
        "1",
    ];
    let mut child = killed.command(&command).stdin(Stdio::piped()).spawn().unwrap();
    // It takes what it has room for, and no end comes.
    let mut stdin = child.stdin.take().unwrap();
    let fed_in = text.clone();
    let feeding = std::thread::spawn(move || drop((stdin.write_all(&fed_in), stdin)));
    while !fs::read(killed.path("work/parts.jsonl")).is_ok_and(|lines| !lines.is_empty()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    feeding.join().unwrap();
    let mut other = text.clone();
    other[1000] ^= 1;
    let refused = fed(&killed, &command, &other);
    assert!(refused.code == Some(8) && refused.stderr.contains("not the bytes that came before"), "{refused:?}");
    let json = [&["--format", "json"], &command[..]].concat();
    let made = fed(&killed, &json, &text);
    let once = fed(&whole, &json, &text);
    assert!(made.code == Some(0) && once.code == Some(0), "{made:?} {once:?}");
    let content = |said: &Said| serde_json::from_str::<serde_json::Value>(&said.stdout).unwrap()["content"].clone();
    assert_eq!(content(&made), content(&once));
}

#[test]
fn more_documents_are_appended_under_names_of_their_own() {
    let desk = Desk::new();
    let tokenizer = tokenizer();
    fs::write(desk.path("a.txt"), "one two").unwrap();
    fs::write(desk.path("b.jsonl"), "{\"text\": \"three\"}\nnot json\n").unwrap();
    let command = |input, more: &[&'static str]| -> Vec<String> {
        let base = ["data", "tokenize", input, "--tokenizer", &tokenizer, "--to", "demo/more", "--eos", "none"];
        let work = ["--work", "work"];
        [&base[..], &work, more].concat().into_iter().map(str::to_owned).collect()
    };
    let of = |arguments: &[String]| arguments.iter().map(|text| text.as_str().to_owned()).collect::<Vec<_>>();
    let run = |arguments: Vec<String>| desk.ok(&of(&arguments).iter().map(String::as_str).collect::<Vec<_>>());
    let fails = |code, arguments: Vec<String>, parts: &[&str]| {
        desk.fails(code, &of(&arguments).iter().map(String::as_str).collect::<Vec<_>>(), parts)
    };
    run(command("a.txt", &[]));
    fails(2, command("b.jsonl", &["--append"]), &["pass --prefix"]);
    fails(1, command("b.jsonl", &["--append", "--prefix", "more"]), &["b.jsonl:2: not JSON", "--skip-bad"]);
    let said = run(command("b.jsonl", &["--append", "--prefix", "more", "--skip-bad", "--restart"]));
    assert!(said.contains("demo/more@2 pushed") && said.contains("1 (1 skipped)"), "{said}");
    fails(2, command("a.txt", &["--append", "--prefix", "more"]), &["more-00000.parquet already"]);
    assert!(!desk.path("work").exists(), "another prefix is not in conflict with this one");
    let shown = desk.ok(&["data", "show", "demo/more"]);
    assert!(shown.contains("more-00000.parquet") && shown.contains("part-00000.parquet"), "{shown}");
    fails(2, command("a.txt", &["--prefix", "../x"]), &["--prefix"]);
    fails(4, command("absent.txt", &[]), &["absent.txt"]);
    assert!(Path::new(&desk.path("a.txt")).exists());
}

#[test]
fn a_run_that_was_killed_after_its_commit_ends() {
    let desk = Desk::new();
    let tokenizer = tokenizer();
    fs::write(desk.path("a.txt"), "one two").unwrap();
    fs::write(desk.path("b.txt"), "three").unwrap();
    let common = ["--tokenizer", &tokenizer, "--to", "demo/more", "--eos", "none", "--work", "work"];
    desk.ok(&[&["data", "tokenize", "a.txt"], &common[..]].concat());
    let command = [&["data", "tokenize", "b.txt", "--append", "--prefix", "more"], &common[..]].concat();
    // A push that fails leaves the finished parts, as they are until the clean-up.
    fs::create_dir_all(desk.path("work/parts/others")).unwrap();
    fs::write(desk.path("work/parts/others/x.parquet"), "no").unwrap();
    desk.fails(1, &command, &["x.parquet is not a sound Parquet file"]);
    fs::remove_dir_all(desk.path("work/parts/others")).unwrap();
    let kept = desk.path("kept");
    fs::create_dir_all(kept.join("parts")).unwrap();
    for name in ["plan.json", "parts.jsonl", "parts/more-00000.parquet"] {
        fs::copy(desk.path("work").join(name), kept.join(name)).unwrap();
    }
    let made = desk.json(&command);
    assert_eq!((&made["version"], &made["files_before"], &made["existed"]), (&json!(2), &json!(1), &json!(false)));
    assert!(!desk.path("work").exists());
    fs::rename(&kept, desk.path("work")).unwrap();
    let again = desk.json(&command);
    assert_eq!((&again["version"], &again["existed"], &again["bytes_sent"]), (&json!(2), &json!(true), &json!(0)));
    assert!(!desk.path("work").exists());
    // Files of others with these names are refused.
    fs::write(desk.path("b.txt"), "four").unwrap();
    desk.fails(2, &command, &["more-00000.parquet already", "--prefix"]);
}

#[test]
fn one_file_under_two_names_is_refused() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("books")).unwrap();
    fs::write(desk.path("books/a.txt"), "one").unwrap();
    let command = ["data", "tokenize", "books/a.txt", "./books", "--tokenizer", &tokenizer(), "--to", "demo/x"];
    desk.fails(1, &command, &["./books/a.txt is named twice (before as books/a.txt)"]);
}
