//! Ranges and validators, on everything that is served by range: what RFC 9110 says, end to end.

use gigastore_formats::digest::Digest;
use gigastore_tests::raw::Answer;

use crate::served::{Served, TABLE, config_file};

/// What is served, its path and its bytes.
async fn things(served: &Served) -> Vec<(&'static str, String, Vec<u8>)> {
    served.fill(None).await;
    let mut things = vec![
        ("file of a dataset", "/v1/projects/p/datasets/data/1/files/table.parquet".to_owned(), TABLE.to_vec()),
        ("file of a checkpoint", "/v1/projects/p/checkpoints/run/best/files/sub/config.json".to_owned(), {
            config_file().to_vec()
        }),
    ];
    for (folder, what) in [("packs", "pack"), ("blobs", "blob"), ("manifests", "manifest")] {
        let stored = served.files().into_keys().filter(|path| path.to_string_lossy().contains(&format!("/{folder}/")));
        let path = stored.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        things.push((what, format!("/v1/projects/p/{folder}/{name}"), std::fs::read(path).unwrap()));
    }
    things
}

/// A `Range`, what it means, and the status.
type Asked = (String, Option<(u64, u64)>, u16);

/// Ranges, and what of `len` bytes they mean: nothing where they lie outside, all where they are not to be taken.
fn ranges(len: u64) -> Vec<Asked> {
    let part = |text: String, start, end| (text, Some((start, end)), 206);
    let last = len - 1;
    let mut cases = vec![
        part("bytes=0-0".to_owned(), 0, 1),
        part(format!("bytes=0-{last}"), 0, len),
        part("bytes=0-".to_owned(), 0, len),
        part("bytes=1-".to_owned(), 1, len),
        part(format!("bytes={last}-"), last, len),
        part(format!("bytes={last}-{last}"), last, len),
        part(format!("bytes={last}-{len}"), last, len),
        part("bytes=-1".to_owned(), last, len),
        part(format!("bytes=-{len}"), 0, len),
        part("bytes=-999999999999".to_owned(), 0, len),
        part("bytes=7-18446744073709551615".to_owned(), 7, len),
        part("bytes=7-99999999999999999999999999".to_owned(), 7, len),
        part(format!("bytes={}-{}", len / 3, len / 2), len / 3, len / 2 + 1),
    ];
    for border in [256 << 10, 1 << 20, 2 << 20] {
        if border < last {
            cases.push(part(format!("bytes={}-{border}", border - 1), border - 1, border + 1));
        }
    }
    let outside = [format!("bytes={len}-"), format!("bytes={len}-{len}"), "bytes=-0".to_owned()];
    cases.extend(outside.map(|text| (text, None, 416)));
    cases.push(("bytes=99999999999999999999999999-".to_owned(), None, 416));
    let ignored = [
        "bytes=2-1",
        "bytes=-",
        "bytes=",
        "bytes",
        "bytes=a-b",
        "bytes=0x1-2",
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=-1-2",
        "bytes=1-2-3",
        "bytes=0-0,2-2",
        "bytes=0-0,",
        "octets=0-1",
        "bytes:0-1",
        "=0-1",
        "0-1",
        "",
        "bytes=1.0-2",
        "bytes=\u{661}-\u{662}",
        "none",
    ];
    cases.extend(ignored.map(|text| (text.to_owned(), Some((0, len)), 200)));
    cases
}

fn check_body(answer: &Answer, method: &str, expected: &[u8], case: &str) {
    assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()), "{case}");
    assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{case}");
    match method {
        "HEAD" => assert!(answer.body.is_empty(), "{case}"),
        _ => assert!(answer.body == expected, "{case}: {} other bytes", answer.body.len()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_every_kind_on_everything() {
    let served = Served::new().await;
    for (what, target, content) in things(&served).await {
        let len = content.len() as u64;
        for (range, wanted, status) in ranges(len) {
            for method in ["GET", "HEAD"] {
                // A range is of GET alone.
                let (wanted, status) = if method == "GET" { (wanted, status) } else { (Some((0, len)), 200) };
                let case = format!("{method} {what}, {range:?} of {len}");
                let answer = served.ask(method, &target, &[("Range", &range)], b"").await;
                assert_eq!(answer.status, status, "{case}: {:?}", answer.headers);
                let content_range = answer.header("content-range");
                match wanted {
                    None => {
                        assert_eq!(content_range, Some(format!("bytes */{len}").as_str()), "{case}");
                        assert_eq!(answer.code(), "invalid", "{case}: {answer:?}");
                    }
                    Some((start, end)) => {
                        let expected = format!("bytes {start}-{}/{len}", end - 1);
                        assert_eq!(content_range, (status == 206).then_some(expected.as_str()), "{case}");
                        check_body(&answer, method, &content[start as usize..end as usize], &case);
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_decide_what_is_sent() {
    let served = Served::new().await;
    for (what, target, content) in things(&served).await {
        let whole = served.get(&target).await;
        assert_eq!(whole.status, 200, "{what}");
        check_body(&whole, "GET", &content, what);
        let etag = whole.header("etag").unwrap().to_owned();
        assert!(etag.len() > 64 && etag.starts_with('"') && etag.ends_with('"'), "{what}: {etag} is not strong");
        if what.starts_with("file") {
            assert_eq!(etag, format!("\"{}\"", Digest::of(&content)), "{what}: the digest is that of its bytes");
        }
        let list = format!("\"x\", {etag}");
        let weak = format!("W/{etag}");
        let unquoted = etag.trim_matches('"').to_owned();
        for method in ["GET", "HEAD"] {
            for (tag, status) in [(&etag, 304), (&list, 304), (&"*".to_owned(), 304), (&weak, 304), (&unquoted, 200)] {
                let case = format!("{method} {what}, If-None-Match: {tag}");
                let answer = served.ask(method, &target, &[("If-None-Match", tag)], b"").await;
                assert_eq!(answer.status, status, "{case}");
                assert_eq!(answer.header("etag"), Some(etag.as_str()), "{case}");
                assert!(status == 200 || answer.body.is_empty(), "{case}");
            }
            // A weak or other validator, or a date, says nothing of these bytes: all is sent.
            let date = "Wed, 21 Oct 2015 07:28:00 GMT".to_owned();
            for (tag, status) in
                [(&etag, 206), (&weak, 200), (&"\"x\"".to_owned(), 200), (&date, 200), (&unquoted, 200)]
            {
                let status = if method == "GET" { status } else { 200 };
                let case = format!("{method} {what}, If-Range: {tag}");
                let headers = [("Range", "bytes=1-3"), ("If-Range", tag.as_str())];
                let answer = served.ask(method, &target, &headers, b"").await;
                assert_eq!(answer.status, status, "{case}");
                check_body(&answer, method, if status == 206 { &content[1..4] } else { &content }, &case);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_there_are_not_found() {
    let served = Served::new().await;
    served.fill(None).await;
    let missing = [
        "checkpoints/run/1/files/config.json",
        "checkpoints/run/2/files/sub/config.json",
        "checkpoints/run/other/files/sub/config.json",
        "checkpoints/rum/1/files/sub/config.json",
        "checkpoints/run/1/files/model.norm.weight",
        "datasets/data/1/files/other.parquet",
        "datasets/data/2/files/table.parquet",
        "datasets/dada/1/files/table.parquet",
    ];
    for path in missing {
        for method in ["GET", "HEAD"] {
            let answer = served.ask(method, &format!("/v1/projects/p/{path}"), &[("Range", "bytes=0-1")], b"").await;
            assert_eq!(answer.status, 404, "{path}: {answer:?}");
        }
    }
    for path in ["checkpoints/data/1/files/table.parquet", "datasets/run/1/files/sub/config.json"] {
        assert_eq!(served.get(&format!("/v1/projects/p/{path}")).await.status, 400, "{path} is of the other sort");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_decoded_once_however_many_ranges_are_read() {
    let served = Served::new().await;
    served.fill(None).await;
    let before = served.metric("gigastore_manifests_read_total").await;
    for path in ["datasets/data/1/files/table.parquet", "checkpoints/run/best/files/sub/config.json"] {
        for range in ["bytes=0-9", "bytes=10-19", "bytes=-1"] {
            let answer = served.ask("GET", &format!("/v1/projects/p/{path}"), &[("Range", range)], b"").await;
            assert_eq!(answer.status, 206, "{path} {range}");
        }
    }
    assert_eq!(served.metric("gigastore_manifests_read_total").await, before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_and_wrong_is_read_again() {
    let limits = gigastore_server::Limits { cache: 16 << 20, ..Default::default() };
    let served = Served::with(crate::served::Setup { limits, ..Default::default() }).await;
    let things = things(&served).await;
    let (_, target, sound) = &things[3];
    let stored = |target: &str, kind: &str| {
        let name = target.rsplit('/').next().unwrap().to_owned();
        let matches = |path: &std::path::PathBuf| path.to_string_lossy().contains(&format!("/{kind}/"));
        let mut found = served.files().into_keys().filter(matches);
        found.rfind(|path| path.file_stem().unwrap().to_str() == Some(&name)).unwrap()
    };
    let path = stored(target, "blobs");
    let mut damaged = sound.clone();
    damaged[100] ^= 1;
    // A reader that has digests of its own asks past what is kept, and what it is given is kept.
    std::fs::write(&path, &damaged).unwrap();
    assert!(served.get(target).await.body == damaged);
    std::fs::write(&path, sound).unwrap();
    assert!(served.get(target).await.body == damaged, "nothing was kept");
    assert!(served.ask("GET", target, &[("Cache-Control", "max-age=0, No-Cache")], b"").await.body == *sound);
    assert!(served.get(target).await.body == *sound);
    // A reader that has none is not given what was kept and is wrong.
    std::fs::write(&path, &damaged).unwrap();
    assert!(served.ask("GET", target, &[("Cache-Control", "no-cache")], b"").await.body == damaged);
    let failures = served.metric("gigastore_verification_failures_total").await;
    let file = &things[0].1;
    let refused = served.get(file).await;
    assert_eq!((refused.status, refused.code()), (500, "integrity".to_owned()), "{refused:?}");
    assert_eq!(served.metric("gigastore_verification_failures_total").await, failures + 1);
    std::fs::write(&path, sound).unwrap();
    assert!(served.get(file).await.body == *sound);
    // The same for a file in a pack, whose header is read through the cache too.
    let path = stored(&things[2].1, "packs");
    let mut damaged = things[2].2.clone();
    damaged.iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&path, &damaged).unwrap();
    let refused = served.get(&things[1].1).await;
    assert_eq!((refused.status, refused.code()), (500, "integrity".to_owned()), "{refused:?}");
    std::fs::write(&path, &things[2].2).unwrap();
    assert!(served.get(&things[1].1).await.body == things[1].2);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_of_an_answer_breaks_it_off_and_is_counted() {
    let served = Served::new().await;
    served.fill(None).await;
    let (content, path) = (config_file(), "/v1/projects/p/checkpoints/run/best/files/sub/config.json");
    let end = &content[content.len() - 64..];
    let packs = served.files().into_keys().filter(|path| path.to_string_lossy().contains("/packs/"));
    for pack in packs {
        let mut bytes = std::fs::read(&pack).unwrap();
        if let Some(at) = bytes.windows(end.len()).position(|window| window == end) {
            bytes[at] ^= 1;
            std::fs::write(&pack, &bytes).unwrap();
        }
    }
    let answer = served.get(path).await;
    assert_eq!((answer.status, answer.whole), (200, false), "the head was sent before the damage was met");
    assert!(content.starts_with(&answer.body) && answer.body.len() >= 2 << 20, "{} bytes", answer.body.len());
    assert_eq!(served.metric("gigastore_verification_failures_total").await, 1);
}
