//! What an operator does beside a running service: tokens made, listed and revoked, and a look whether all is well.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::Service;
use crate::run::{Desk, Said};

fn as_token(desk: &Desk, service: &Service, token: &str, arguments: &[&str]) -> Said {
    let mut command = desk.command(arguments);
    command.env("GIGASTORE_STORE", service.url()).env("GIGASTORE_TOKEN", token);
    Said::of(command.output().unwrap())
}

fn token<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["token"], more, &["--tokens", "tokens.json"]].concat()
}

#[test]
fn tokens_are_shown_once_and_revoked_while_the_service_runs() {
    let desk = Desk::new();
    desk.model("m", 1);
    let writer = desk.ok(&token(&["create", "--name", "trainer", "--scope", "p:write"])).trim().to_owned();
    let short = ["create", "--name", "soon gone", "--scope", "p:read", "--scope", "*:read", "--expires", "1s"];
    let made = desk.json(&token(&short));
    let expiring = made["token"].as_str().unwrap().to_owned();
    let listed = desk.json(&token(&["ls"]));
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let text = desk.ok(&token(&["ls"])) + &std::fs::read_to_string(desk.path("tokens.json")).unwrap();
    for secret in [&writer, &expiring] {
        assert!(!text.contains(secret.rsplit('_').next().unwrap()), "a secret is shown again");
    }
    assert!(text.contains("trainer") && text.contains("p:write") && text.contains("p:read *:read"), "{text}");

    let service = Service::start(&desk, &["--tokens", "tokens.json"]);
    let save = ["ckpt", "save", "m.safetensors", "--to", "p/run@1"];
    assert_eq!(as_token(&desk, &service, &writer, &save).code, Some(0));
    let elsewhere = ["ckpt", "save", "m.safetensors", "--to", "q/run@1"];
    let refused = as_token(&desk, &service, &writer, &elsewhere);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stderr.contains("no Write access to project q"), "{refused:?}");
    std::thread::sleep(Duration::from_secs(1));
    let late = as_token(&desk, &service, &expiring, &["ls"]);
    assert_eq!((late.code, late.stderr.contains("has expired")), (Some(6), true), "{late:?}");

    let id = listed[0]["id"].as_str().unwrap();
    desk.ok(&token(&["revoke", id]));
    desk.fails(4, &token(&["revoke", id]), &[id, "token ls"]);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let said = as_token(&desk, &service, &writer, &["ls"]);
        if said.code == Some(6) {
            assert!(said.stderr.contains("not known"), "{said:?}");
            break;
        }
        assert!(Instant::now() < until, "a revoked token is still taken: {said:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    desk.fails(2, &token(&["create", "--name", "x", "--scope", "p:all"]), &["read, write or admin"]);
    desk.fails(4, &["token", "ls", "--tokens", "absent.json"], &["absent.json"]);
}

#[test]
fn the_doctor_looks_and_leaves_nothing() {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.fails(4, &["doctor"], &["no Gigastore store"]);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "p/run@1"]);
    let before = desk.files("store");
    let names = |document: &Value| -> Vec<String> {
        let checks = document.as_array().unwrap();
        assert!(checks.iter().all(|check| check["ok"] == true), "{document}");
        checks.iter().map(|check| check["check"].as_str().unwrap().to_owned()).collect()
    };
    let expected = ["credentials", "conditional put", "clock", "throughput"];
    assert_eq!(names(&desk.json(&["doctor"])), [&["store"], &expected[..]].concat());
    assert!(desk.ok(&["doctor"]).contains("all is well"));
    let service = Service::start(&desk, &[]);
    let url = service.url();
    let served = [&["service"], &expected[..]].concat();
    assert_eq!(names(&desk.json(&["--store", &url, "doctor"])), served);
    let twice = format!("{url},{url}");
    assert_eq!(names(&desk.json(&["--store", &twice, "doctor"])), [&served[..], &served[..]].concat());
    assert_eq!(desk.files("store"), before, "a trial left something");
    desk.fails(2, &["--store", "not-a-url", "doctor"], &["did you mean"]);
}
