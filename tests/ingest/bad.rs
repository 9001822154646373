//! Bad input: an error that names the place, or counted with `skip_bad`; damaged packings are always errors.

use gigastore_ingest::encode::{Encoder, Ends, Eos};
use gigastore_ingest::input::{MAX_DOCUMENT_BYTES, Reading, Split};

use crate::desk::{Desk, WORDS, tokenizer};

#[test]
fn a_bad_line_is_named_or_counted() {
    let desk = Desk::new();
    let lines =
        [&b"{\"text\": \"to\"}\n{\"txt\": 1}\nnull\n{\"text\": \"\xff\"}\n"[..], b"{\"text\": \"be\"}"].concat();
    desk.write("x.jsonl", &lines);
    let refused = desk.run(&["x.jsonl"], &Reading::default()).unwrap_err().to_string();
    assert!(refused.contains("x.jsonl:2: no field \"text\"") && refused.contains("--skip-bad"), "{refused}");
    let skip = Reading { skip_bad: true, ..Reading::default() };
    let (done, rows) = desk.run(&["x.jsonl"], &skip).unwrap();
    assert_eq!((rows.len(), done.counts.skipped.documents, done.counts.skipped.first.len()), (2, 3, 3));
    assert!(done.counts.skipped.first[2].contains("x.jsonl:4: not JSON"), "{:?}", done.counts.skipped);
    desk.write("y.jsonl", b"1\n2\n");
    let refused = desk.run(&["y.jsonl"], &skip).unwrap_err().to_string();
    assert_eq!(refused, "the inputs have no document (2 were passed over)");
}

#[test]
fn a_bomb_is_an_error_of_bounded_size() {
    let desk = Desk::new();
    // 1 GiB of one line, in some 100 kB.
    let zeros = vec![b'a'; 1 << 20];
    let mut bomb = zstd::Encoder::new(Vec::new(), 3).unwrap();
    (0..1024).for_each(|_| std::io::Write::write_all(&mut bomb, &zeros).unwrap());
    desk.write("bomb.txt.zst", &bomb.finish().unwrap());
    for (split, said) in [(Split::File, "pass --split"), (Split::Lines, "longer than 16777216 bytes")] {
        let reading = Reading { split, ..Reading::default() };
        let refused = desk.run(&["bomb.txt.zst"], &reading).unwrap_err().to_string();
        assert!(refused.contains("bomb.txt.zst:1:") && refused.contains(said), "{refused}");
    }
}

#[test]
fn the_longest_document_is_taken() {
    let desk = Desk::new();
    desk.write("long.txt", "be ".repeat(MAX_DOCUMENT_BYTES / 3).as_bytes());
    let (done, rows) = desk.run(&["long.txt"], &Reading::default()).unwrap();
    assert_eq!((rows.len(), done.counts.tokens), (1, MAX_DOCUMENT_BYTES as u64 / 3 + 1));
}

#[test]
fn damaged_packings_are_errors_even_where_bad_documents_are_skipped() {
    let desk = Desk::new();
    let text = "to be or not\n".repeat(50_000);
    desk.write_gz("t.txt.gz", text.as_bytes());
    desk.write_zst("t.txt.zst", text.as_bytes());
    let reading = Reading { split: Split::Lines, skip_bad: true, ..Reading::default() };
    for name in ["t.txt.gz", "t.txt.zst"] {
        let whole = std::fs::read(desk.path(name)).unwrap();
        desk.write(name, &whole[..whole.len() - 9]);
        let refused = desk.run(&[name], &reading).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains("can't be read"), "{refused}");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 0x10;
        desk.write(name, &flipped);
        if name.ends_with("gz") {
            assert!(desk.run(&[name], &reading).is_err(), "gzip has a checksum");
        }
    }
    desk.write("p.parquet", b"PAR1 but nothing else PAR1");
    let refused = desk.run(&["p.parquet"], &reading).unwrap_err().to_string();
    assert!(refused.contains("p.parquet is not a sound Parquet file"), "{refused}");
}

#[test]
fn ends_of_text_come_from_where_they_are_said() {
    let desk = Desk::new();
    let path = desk.path("tokenizer.json");
    let open = |eos: Eos| Encoder::open(&path, &Ends { eos, ..Ends::default() });
    assert_eq!(open(Eos::Auto).unwrap().eos(), Some(("<eos>", 1)));
    assert_eq!(open(Eos::None).unwrap().eos(), None);
    assert_eq!(open(Eos::Token("that".to_owned())).unwrap().eos(), Some(("that", 7)));
    let refused = open(Eos::Token("</s>".to_owned())).unwrap_err().to_string();
    assert!(refused.contains("no token \"</s>\"") && refused.contains("--eos"), "{refused}");
    let special = Ends { special_tokens: true, ..Ends::default() };
    assert_eq!(Encoder::open(&path, &special).unwrap().eos(), None, "the post-processor says it all");
    desk.write("tokenizer_config.json", br#"{"eos_token": {"content": "or"}}"#);
    assert_eq!(open(Eos::Auto).unwrap().eos(), Some(("or", 4)));
    std::fs::remove_file(desk.path("tokenizer_config.json")).unwrap();
    desk.write("tokenizer.json", &tokenizer(&["<unk>", "[PAD]", "x"]));
    let refused = open(Eos::Auto).unwrap_err().to_string();
    assert!(refused.contains("pass --eos TOKEN, or --eos none"), "{refused}");
    for bytes in [&b"{}"[..], b"not json", b"", &[b'['; 1 << 16]] {
        desk.write("tokenizer.json", bytes);
        assert!(open(Eos::None).unwrap_err().to_string().contains("is not a tokenizer.json"));
    }
    assert_eq!(WORDS[1], "<eos>");
}
