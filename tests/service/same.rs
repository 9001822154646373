//! The command line over HTTP and on the store itself: the same words, the same files, the same exit codes.

use std::fs;

use serde_json::Value;

use crate::process::{Service, against};
use crate::run::{Desk, Said};

/// A desk with two models and two tables.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.model("n", 2);
    fs::create_dir(desk.path("corpus")).unwrap();
    fs::write(desk.path("corpus/a.parquet"), include_bytes!("../../formats/fixtures/packs-1.parquet")).unwrap();
    fs::write(desk.path("corpus/b.parquet"), gigastore_tests::tables::table(50).unwrap()).unwrap();
    desk
}

/// Everything that changes something, and everything that looks, well and badly.
const COMMANDS: &[&str] = &[
    "ls",
    "ckpt ls p",
    "ckpt save m.safetensors --to p/run@1 --ranks 3 --tag first --meta lr=0.1",
    "ckpt save m.safetensors --to p/run@1",
    "ckpt save n.safetensors --to p/run@1",
    "ckpt save n.safetensors --to p/run@2 --compress",
    "ckpt save m.safetensors --to p/other@7",
    "ckpt save absent.safetensors --to p/run@3",
    "ckpt save m.safetensors --to p/run",
    "data push corpus/a.parquet --to p/data --tag old",
    "data push corpus --to p/data",
    "data push corpus --to p/data",
    "data push corpus/a.parquet --to p/run",
    "ckpt tag p/run@1 best",
    "ckpt tag p/run@9 best",
    "ckpt tag p/run@1 latest",
    "ls",
    "ls p",
    "ckpt ls p",
    "ckpt ls p/run",
    "ckpt ls q",
    "ckpt ls p/rum",
    "ckpt show p/run@best",
    "ckpt show p/run",
    "ckpt show p/rum@1",
    "ckpt show p/run@9",
    "ckpt show p/data@1",
    "ckpt diff p/run@1 p/run@2",
    "ckpt diff p/run@1 p/other@7",
    "ckpt diff p/run@1 p/run@9",
    "ckpt restore p/run@1 --out out-1",
    "ckpt restore p/run@2 --out out-2",
    "ckpt restore p/run@1 --out out-3 --names model.layers.1.* optimizer.step",
    "ckpt restore p/run@1 --out out-3",
    "ckpt restore p/run@1 --out out-4 --names no.such.tensor",
    "data ls p",
    "data show p/data",
    "data show p/data@old",
    "data show p/data@9",
    "data get p/data --out data-out",
    "data get p/data@old --out data-old",
    "data get p/data absent.parquet --out data-none",
    "verify p",
    "verify p --quick",
    "verify q",
    "verify p/run@1",
    "du p",
    "ckpt watch p/run --all --count 2 --timeout 20",
    "ckpt watch p --all --count 3 --timeout 20",
    "ckpt watch p/run --count 1 --timeout 1",
];

/// Sums that timelines are in: the length of each depends on the times in it, by some bytes.
const NEARLY: [&str; 3] = ["bytes_read", "manifest_bytes", "stored_bytes"];

/// Tallies whose `bytes` are such a sum.
const TALLIES: [&str; 2] = ["in_store", "needed"];

/// Tells whether two answers say the same; sums of [`NEARLY`] and [`TALLIES`] may differ by 1 KiB.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let field = |(key, value): (&String, &Value)| match (value.as_u64(), b.get(key).and_then(Value::as_u64)) {
                (Some(one), Some(other)) if NEARLY.contains(&key.as_str()) => one.abs_diff(other) <= 1024,
                _ if TALLIES.contains(&key.as_str()) => {
                    let of = |tally: Option<&Value>, field: &str| tally?.get(field)?.as_u64();
                    let both = |field| of(Some(value), field).zip(of(b.get(key), field));
                    both("count").is_some_and(|(one, other)| one == other)
                        && both("bytes").is_some_and(|(one, other)| one.abs_diff(other) <= 1024)
                }
                _ => b.get(key).is_some_and(|other| same(value, other)),
            };
            a.len() == b.len() && a.iter().all(field)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

/// Leaves out what differs from run to run: times, the timeline that is made of them, and the store's address.
fn stripped(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !["time", "time_ms", "seconds", "request_id", "timeline"].contains(&key.as_str()));
            fields.values_mut().for_each(stripped);
        }
        Value::Array(values) => values.iter_mut().for_each(stripped),
        _ => {}
    }
}

/// What was said as JSON, line by line or as one document, without what differs from run to run.
fn document(text: &str, store: &str) -> Vec<Value> {
    let text = text.replace(store, "STORE");
    let values: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter().map(|value| value.unwrap_or(Value::Null)).collect();
    values
        .into_iter()
        .map(|mut value| {
            stripped(&mut value);
            value
        })
        .collect()
}

fn run(desk: &Desk, store: &str, command: &str) -> Said {
    let arguments: Vec<&str> = command.split(' ').collect();
    against(desk, store, &[&["--quiet", "--format", "json"], &arguments[..]].concat())
}

#[test]
fn every_command_behaves_the_same_over_http_as_on_the_store() {
    let (here, there) = (desk(), desk());
    let service = Service::start(&there, &[]);
    let (file, http) = (format!("file://{}", here.path("store").display()), service.url());
    // A service makes its store as it starts.
    assert_eq!(run(&here, &file, "ckpt save n.safetensors --to first/run@1").code, Some(0));
    assert_eq!(run(&there, &http, "ckpt save n.safetensors --to first/run@1").code, Some(0));
    for command in COMMANDS {
        let (on_store, over_http) = (run(&here, &file, command), run(&there, &http, command));
        assert_eq!(over_http.code, on_store.code, "{command}: {over_http:?} {on_store:?}");
        let (expected, actual) = (document(&on_store.stdout, &file), document(&over_http.stdout, &http));
        let (expected, actual) = (Value::Array(expected), Value::Array(actual));
        assert!(same(&actual, &expected), "{command}:\n{actual}\n{expected}");
        if on_store.code != Some(0) {
            assert_eq!(document(&over_http.stderr, &http), document(&on_store.stderr, &file), "{command}");
        }
    }
    for folder in ["out-1", "out-2", "out-3", "data-out", "data-old"] {
        let names = |desk: &Desk| -> Vec<_> {
            let base = desk.path("");
            desk.files(folder)
                .into_iter()
                .map(|(path, bytes)| (path.strip_prefix(&base).unwrap().to_owned(), bytes))
                .collect()
        };
        let restored = names(&there);
        assert!(!restored.is_empty(), "{folder}");
        assert!(restored == names(&here), "{folder} differs");
    }
}

#[test]
fn people_read_the_same_over_http() {
    let desk = desk();
    let service = Service::start(&desk, &[]);
    let (file, http) = (format!("file://{}", desk.path("store").display()), service.url());
    for command in ["ckpt save m.safetensors --to p/run@1 --tag best", "data push corpus --to p/data"] {
        assert_eq!(run(&desk, &http, command).code, Some(0), "{command}");
    }
    for command in
        ["ls", "ls p", "ckpt ls p", "ckpt show p/run@1", "data ls p", "data show p/data", "du p", "ckpt ls q"]
    {
        let arguments: Vec<&str> = command.split(' ').collect();
        let (on_store, over_http) = (against(&desk, &file, &arguments), against(&desk, &http, &arguments));
        assert_eq!(over_http.stdout, on_store.stdout, "{command}");
        assert_eq!((over_http.code, over_http.stderr), (on_store.code, on_store.stderr), "{command}");
        assert!(!on_store.stdout.is_empty() || on_store.code != Some(0), "{command}");
    }
    let bytes = |store: &str| {
        let get = ["data", "get", "p/data", "b.parquet", "--range", "10..200"];
        desk.command(&get).env("GIGASTORE_STORE", store).output().unwrap().stdout
    };
    assert_eq!((bytes(&http).len(), bytes(&http)), (190, bytes(&file)));
}

#[test]
fn watching_over_http_prints_each_step_as_it_comes() {
    let desk = desk();
    let service = Service::start(&desk, &[]);
    let watch = ["-q", "ckpt", "watch", "p/run", "--count", "3", "--timeout", "50"];
    let watching = desk.command(&watch).env("GIGASTORE_STORE", service.url()).spawn().unwrap();
    for (step, model) in [(3, "m"), (1, "n"), (9, "m")] {
        let save = format!("ckpt save {model}.safetensors --to p/run@{step}");
        assert_eq!(run(&desk, &service.url(), &save).code, Some(0));
        assert_eq!(run(&desk, &service.url(), "ckpt save m.safetensors --to p/other@1").code, Some(0));
    }
    let said = Said::of(watching.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    let targets: Vec<_> = said.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(targets, ["p/run@3", "p/run@1", "p/run@9"], "{said:?}");
}
