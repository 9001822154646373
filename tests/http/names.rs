//! Names that try to escape, wherever a request has a name: refused in words, and nothing is touched.

use gigastore_server::ROUTES;
use gigastore_tests::raw::ask;
use serde_json::{Value, json};

use crate::served::Served;

/// Segments as they stand in a request.
fn hostile() -> Vec<String> {
    let fixed = [
        "..",
        ".",
        "%2e%2e",
        ".%2e",
        "%2E%2E%2F%2e%2e%2fsecret",
        "..%2f..%2fsecret",
        "..%5c..%5csecret",
        "%2fetc%2fpasswd",
        "p%2frun",
        "%00",
        "p%00",
        "p%0a",
        "%0d%0aX-Evil:%20yes",
        "%EF%BC%8E%EF%BC%8E",
        "%E2%80%A5",
        "%C0%AE%C0%AE%C0%AF",
        "%E0%80%AE",
        "%ff%fe",
        "%ED%A0%80",
        "%E2%80%AEnur",
        "r%E2%80%8Bun",
        "%CC%81",
        "P",
        "%50",
        "~",
        "-p",
        "p..q",
        "%",
        "%zz",
        "%2",
        "p%20q",
        "%3f",
        "%23",
        "*",
        "{project}",
        "CON%3a",
        "file:%2f%2f%2fetc",
    ];
    fixed.iter().map(|text| (*text).to_owned()).chain([128 + 1, 5000].map(|len| "a".repeat(len))).collect()
}

/// A valid value of each placeholder.
fn valid(placeholder: &str) -> String {
    match placeholder {
        "{project}" => "p".to_owned(),
        "{object}" => format!("{}.0", "ab".repeat(32)),
        "{save}" => "ab".repeat(32),
        "{rank}" => "0".to_owned(),
        "{name}" | "{run}" => "run".to_owned(),
        "{selector}" => "1".to_owned(),
        "{tag}" => "best".to_owned(),
        "{*path}" => "sub/config.json".to_owned(),
        other => panic!("{other}: a new placeholder"),
    }
}

/// Every target that has one hostile segment, or an empty one, where the route has a name.
fn targets(route: &str) -> Vec<String> {
    let parts: Vec<&str> = route.split('/').collect();
    let mut all = Vec::new();
    for at in (0..parts.len()).filter(|at| parts[*at].starts_with('{')) {
        let with = |hostile: &str| {
            let named = |(i, part): (usize, &&str)| match part.starts_with('{') {
                _ if i == at => hostile.to_owned(),
                true => valid(part),
                false => (*part).to_owned(),
            };
            parts.iter().enumerate().map(named).collect::<Vec<_>>().join("/")
        };
        all.extend(hostile().iter().map(|text| with(text)));
        all.push(with(""));
        if parts[at] == "{*path}" {
            all.extend(["../../../../secret", "sub/../../x", "/etc/passwd", "sub//config.json"].map(with));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_in_a_path_escapes() {
    let served = Served::new().await;
    served.fill(None).await;
    let files = served.files();
    let mut tried = 0;
    for (method, route, _) in ROUTES {
        for target in targets(route) {
            tried += 1;
            let shown = &target[..target.len().min(200)];
            let answer = served.ask(method, &target, &[], b"{}").await;
            assert!((400..500).contains(&answer.status), "{method} {shown}: {answer:?}");
            assert!(answer.header("x-evil").is_none(), "{method} {shown}: {answer:?}");
            assert!(!answer.text().contains("nobody's business"), "{method} {shown}: {answer:?}");
            if *method != "HEAD" {
                let body = answer.json();
                for field in ["code", "message", "request_id"] {
                    assert!(body[field].is_string(), "{method} {shown}: no {field} in {answer:?}");
                }
                assert!(answer.body.len() < 2000, "{method} {shown}: {} bytes", answer.body.len());
            }
        }
    }
    assert!(tried > 2000, "{tried}");
    assert_eq!(served.files(), files, "something was touched");
    // What is no URI at all has no route, and no words.
    for text in ["'\"", "<p>", "p^q", "p|q", "\u{ff0e}\u{ff0e}", "p\\..\\q", "p\tq", "p q", "\u{7f}", "\0", "\u{202e}p"]
    {
        let answer = ask(served.address, "GET", &format!("/v1/projects/{text}"), &[], b"").await;
        assert!(answer.is_ok_and(|answer| (400..500).contains(&answer.status)), "{text:?}");
    }
    served.check_alive().await;
}

/// Puts `value` at a path of a document.
fn with(mut document: Value, path: &[&str], value: &str) -> Vec<u8> {
    let mut at = &mut document;
    for key in path {
        at = match key.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[*key],
        };
    }
    *at = json!(value);
    serde_json::to_vec(&document).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_in_a_body_or_a_query_escapes() {
    let served = Served::new().await;
    served.fill(None).await;
    let files = served.files();
    let save = json!({ "project": "p", "run": "run", "step": 5, "attempt": "a", "world_size": 1 });
    let finish = json!({ "save": save, "tag": "best", "deadline_ms": 0 });
    let exists = json!({ "kind": "pack", "objects": [format!("{}.0", "ab".repeat(32))] });
    let boxes = json!({ "boxes": [{ "kind": "file", "name": "sub/config.json" }] });
    let verify = json!({ "project": "p", "name": "run", "number": null, "depth": "quick" });
    let commit = format!("/v1/projects/p/saves/{}/commit", "ab".repeat(32));
    let cases: [(&str, &str, &Value, &[&str]); 9] = [
        ("POST", "/v1/projects/p/saves", &save, &["project"]),
        ("POST", "/v1/projects/p/saves", &save, &["run"]),
        ("POST", &commit, &finish, &["save", "run"]),
        ("POST", &commit, &finish, &["tag"]),
        ("POST", "/v1/projects/p/exists", &exists, &["objects", "0"]),
        ("POST", "/v1/projects/p/exists", &exists, &["kind"]),
        ("POST", "/v1/projects/p/checkpoints/run/1/plan", &boxes, &["boxes", "0", "name"]),
        ("POST", "/v1/projects/p/verify", &verify, &["project"]),
        ("POST", "/v1/projects/p/verify", &verify, &["name"]),
    ];
    let plain = ["..", "../../secret", "/etc/passwd", "p/run", "p\0", "\u{ff0e}\u{ff0e}", "\u{202e}p", "P", "", "p q"];
    for (method, target, document, path) in cases {
        for text in plain.into_iter().map(str::to_owned).chain(["a".repeat(5000)]) {
            let answer = served.ask(method, target, &[], &with(document.clone(), path, &text)).await;
            assert!((400..500).contains(&answer.status), "{target} {path:?} {text:?}: {answer:?}");
            assert!(answer.json()["message"].is_string(), "{target} {path:?} {text:?}: {answer:?}");
        }
    }
    for text in hostile() {
        let query = format!("/v1/projects/p/datasets?txn={}&epoch=0&tag={text}", "ab".repeat(32));
        for target in [query, format!("/v1/projects/p/datasets?txn={text}&epoch=0")] {
            let answer = served.ask("POST", &target, &[], b"no manifest").await;
            assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
            assert!(answer.json()["message"].is_string(), "{target}: {answer:?}");
        }
    }
    assert_eq!(served.files(), files, "something was touched");
    served.check_alive().await;
}
