//! Every route and every kind of token: who passes, who does not, and that nobody learns of what is not theirs.

use std::time::Duration;

use gigastore_server::tokens::{Token, TokenFile};
use gigastore_server::{Access, ROUTES};
use gigastore_tests::raw::{Answer, Wire};
use serde_json::json;

use crate::served::{Served, Setup, bearer, token};

const METHODS: [&str; 9] = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY"];

/// Tokens, by what they may do in project `p`; those for `*` are tried on all projects.
struct Keys {
    all: Vec<Token>,
    cases: Vec<Case>,
}

/// What a token is, its header, and what it may do in `p`; an error: it is nobody's.
type Case = (&'static str, Option<String>, Result<Option<Access>, ()>);

fn keys() -> Keys {
    let made = [
        ("read", token(1, "p", Access::Read, None), Ok(Some(Access::Read))),
        ("write", token(2, "p", Access::Write, None), Ok(Some(Access::Write))),
        ("admin", token(3, "p", Access::Admin, None), Ok(Some(Access::Admin))),
        ("admin of another project", token(4, "other", Access::Admin, None), Ok(None)),
        ("read of all", token(5, "*", Access::Read, None), Ok(Some(Access::Read))),
        ("expired", token(6, "*", Access::Admin, Some(1)), Err(())),
        ("not yet expired", token(7, "p", Access::Write, Some(u64::MAX)), Ok(Some(Access::Write))),
        ("of no file", token(8, "*", Access::Admin, None), Err(())),
    ];
    let mut cases: Vec<_> = made.iter().map(|(what, (_, text), may)| (*what, Some(bearer(text)), *may)).collect();
    let admin = made[2].1.1.clone();
    let (id, secret) = admin.strip_prefix("gst_").unwrap().split_once('_').unwrap();
    let malformed = [
        ("empty", String::new()),
        ("no scheme", admin.clone()),
        ("another scheme", format!("Basic {admin}")),
        ("no token", "Bearer ".to_owned()),
        ("another prefix", format!("Bearer xyz_{id}_{secret}")),
        ("another secret", format!("Bearer gst_{id}_{}", "0".repeat(64))),
        ("the hash for the secret", format!("Bearer gst_{id}_{}", made[2].1.0.hash)),
        ("an id alone", format!("Bearer gst_{id}")),
        ("a secret cut short", bearer(&admin[..admin.len() - 1])),
        ("two tokens", format!("Bearer {admin}, Bearer {admin}")),
        ("bytes", "Bearer \u{e9}\u{202e}".to_owned()),
    ];
    cases.extend(malformed.map(|(what, text)| (what, Some(text), Err(()))));
    cases.push(("none", None, Err(())));
    let all = made.into_iter().filter(|(what, ..)| *what != "of no file").map(|(_, (token, _), _)| token).collect();
    Keys { all, cases }
}

/// Fills the placeholders of a route.
fn target(route: &str, project: &str) -> String {
    let hex = "ab".repeat(32);
    let path = route
        .replace("{project}", project)
        .replace("{object}", &format!("{hex}.0"))
        .replace("{save}", &hex)
        .replace("{rank}", "0")
        .replace("{name}", "run")
        .replace("{run}", "run")
        .replace("{selector}", "1")
        .replace("{tag}", "best")
        .replace("{*path}", "sub/config.json");
    assert!(!path.contains('{'), "{path}: a new placeholder");
    path
}

/// What counts of an answer: all but the request's id.
fn without_id(answer: &Answer) -> (u16, String) {
    let mut body = answer.json();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    (answer.status, body.to_string())
}

fn check_fault(answer: &Answer, what: &str) {
    let body = answer.json();
    for field in ["code", "message", "request_id"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: no {field} in {answer:?}");
    }
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_asks_for_what_the_table_says() {
    let Keys { all, cases } = keys();
    let served = Served::with(Setup { tokens: all, ..Setup::default() }).await;
    let admin = cases[2].1.clone().unwrap();
    served.fill(admin.strip_prefix("Bearer ")).await;
    for (method, route, needed) in ROUTES {
        for project in ["p", "absent"] {
            for (what, header, may) in &cases {
                // What is said of `p` holds for other projects only where the token is for all.
                let may = if project == "p" || *what == "read of all" { *may } else { may.map(|_| None) };
                let headers: Vec<_> = header.iter().map(|text| ("Authorization", text.as_str())).collect();
                let answer = served.ask(method, &target(route, project), &headers, b"").await;
                let case = format!("{method} {} as {what}", target(route, project));
                let open = matches!(*route, "/healthz" | "/readyz");
                let expected = match (needed, may) {
                    (None, _) if open => None,
                    (_, Err(())) => Some(401),
                    (None, Ok(_)) => None,
                    (Some(needed), Ok(access)) => (access < Some(*needed)).then_some(403),
                };
                match expected {
                    Some(status) => assert_eq!(answer.status, status, "{case}: {}", answer.text()),
                    None => {
                        let passed = !matches!(answer.status, 401 | 403 | 405);
                        assert!(passed && !answer.text().contains("no such route"), "{case}: {answer:?}");
                    }
                }
                let asks = answer.header("www-authenticate").is_some();
                assert_eq!(asks, expected == Some(401), "{case}");
                if expected.is_some() && *method != "HEAD" {
                    check_fault(&answer, &case);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_same_whether_the_project_is_there_or_not() {
    let (stranger, text) = token(1, "other", Access::Admin, None);
    let (owner, owners) = token(2, "*", Access::Admin, None);
    let served = Served::with(Setup { tokens: vec![stranger, owner], ..Setup::default() }).await;
    served.fill(Some(&owners)).await;
    for (method, route, needed) in ROUTES {
        if needed.is_none() {
            continue;
        }
        for headers in [vec![], vec![("Authorization", bearer(&text))]] {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let there = without_id(&served.ask(method, &target(route, "p"), &headers, b"").await);
            let not = without_id(&served.ask(method, &target(route, "q"), &headers, b"").await);
            let not = (not.0, not.1.replace("project q", "project p"));
            assert_eq!(there, not, "{method} {route}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_names_a_project_to_who_has_no_scope_on_it() {
    let (stranger, text) = token(1, "mine", Access::Admin, None);
    let (owner, owners) = token(2, "*", Access::Admin, None);
    let served = Served::with(Setup { tokens: vec![stranger, owner], ..Setup::default() }).await;
    let store = served.store(Some(&owners));
    let tensors = gigastore_tests::model::transformer(1, gigastore_tests::model::Size::TINY);
    gigastore_tests::opened::save(&store, crate::served::spec("hush-hush", "run", 1, 1), &tensors).await.unwrap();
    let (all, mine) = (bearer(&owners), bearer(&text));
    let as_owner = [("Authorization", all.as_str())];
    let seen = served.ask("GET", "/v1/projects", &as_owner, b"").await;
    assert_eq!(seen.json(), json!(["hush-hush"]));
    assert!(served.ask("GET", "/metrics", &as_owner, b"").await.text().contains("hush-hush"));
    for (method, route, _) in ROUTES {
        let body = json!({ "project": "mine", "run": "run", "step": 1, "attempt": "a", "world_size": 1 }).to_string();
        for body in ["", &body] {
            let headers = [("Authorization", mine.as_str())];
            let answer = served.ask(method, &target(route, "mine"), &headers, body.as_bytes()).await;
            assert!(!format!("{answer:?}{}", answer.text()).contains("hush-hush"), "{method} {route}: {answer:?}");
        }
    }
    let own = served.ask("GET", "/v1/projects", &[("Authorization", mine.as_str())], b"").await;
    assert!(!own.text().contains("hush"), "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_of_no_route_are_refused() {
    let served = Served::new().await;
    let files = served.files();
    for (_, route, _) in ROUTES {
        for method in METHODS {
            let known = ROUTES.iter().any(|(verb, path, _)| (*verb, path) == (method, route));
            if !known {
                let answer = served.ask(method, &target(route, "p"), &[], b"").await;
                assert_eq!(answer.status, 405, "{method} {route}: {answer:?}");
                if method != "HEAD" {
                    check_fault(&answer, route);
                }
            }
        }
    }
    for path in ["/", "/v1", "/v1/", "/v2/projects", "/v1/projects/", "/v1/projects/p/", "/v1/projects/p/nothing", "/x"]
    {
        let answer = served.get(path).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found".to_owned()), "{path}: {answer:?}");
        check_fault(&answer, path);
    }
    assert_eq!(served.files(), files, "something was made");
}

/// Asks until the answer has this status; the file is looked at every second.
async fn comes_to(served: &Served, text: &str, status: u16) {
    for _ in 0..60 {
        let headers = [("Authorization", bearer(text))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        if served.ask("GET", "/v1/projects", &headers, b"").await.status == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_token_file_take_effect_while_it_runs() {
    let (first, first_text) = token(1, "*", Access::Read, None);
    let served = Served::with(Setup { tokens: vec![first], ..Setup::default() }).await;
    let path = served.folder.path().join("tokens.json");
    comes_to(&served, &first_text, 200).await;
    let (second, second_text) = token(2, "p", Access::Write, None);
    TokenFile::change(&path, |file| {
        file.revoke("00000001", &path)?;
        file.tokens.push(second.clone());
        Ok(())
    })
    .unwrap();
    comes_to(&served, &first_text, 401).await;
    comes_to(&served, &second_text, 200).await;
    // The same id with another secret is another token.
    let (again, again_text) = {
        let (mut token, _) = token(2, "p", Access::Write, None);
        let other = Token::new("again".to_owned(), token.scopes.clone(), None, [7; 32], 2);
        token.hash = other.0.hash;
        (token, other.1)
    };
    TokenFile { tokens: vec![again] }.write(&path).unwrap();
    comes_to(&served, &second_text, 401).await;
    comes_to(&served, &again_text, 200).await;
    // Half an edit lets nobody in, and locks nobody out.
    std::fs::write(&path, "{\"tokens\": [").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    comes_to(&served, &again_text, 200).await;
    comes_to(&served, &second_text, 401).await;
    TokenFile::default().write(&path).unwrap();
    comes_to(&served, &again_text, 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_only_names_of_this_machine_are_answered_to() {
    let open = Served::new().await;
    let (reader, text) = token(1, "*", Access::Read, None);
    let guarded = Served::with(Setup { tokens: vec![reader], ..Setup::default() }).await;
    for (host, here) in [("localhost:7070", true), ("127.0.0.1", true), ("evil.example", false), ("", false)] {
        for (served, authorization) in [(&open, None), (&guarded, Some(bearer(&text)))] {
            let mut wire = Wire::connect(served.address).await.unwrap();
            let authorization = authorization.map(|text| format!("Authorization: {text}\r\n")).unwrap_or_default();
            let head = format!("GET /v1/projects HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n");
            wire.send(head.as_bytes()).await.unwrap();
            let answer = wire.answer("GET").await.unwrap().unwrap();
            let expected = if here || !authorization.is_empty() { 200 } else { 421 };
            assert_eq!(answer.status, expected, "{host:?}: {answer:?}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        let answer = open.ask("HEAD", path, &[], b"").await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}: {answer:?}");
    }
}
