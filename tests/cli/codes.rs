//! Exit codes, near names, errors as JSON, stdout and stderr, and Ctrl-C.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::run::{Desk, Said, flip};

fn saved() -> Desk {
    let desk = Desk::new();
    desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "demo/minilm@100", "--tag", "best"]);
    desk
}

#[test]
fn unknown_names_are_not_found_and_near_ones_are_suggested() {
    let desk = saved();
    let cases: [(&[&str], &str); 9] = [
        (&["ckpt", "show", "demo/minilmm"], "did you mean minilm?"),
        (&["ckpt", "show", "demoo/minilm"], "did you mean demo?"),
        (&["ckpt", "show", "demo/minilm@bets"], "did you mean best?"),
        (&["ckpt", "show", "demo/minilm@101"], "did you mean 100?"),
        (&["ckpt", "ls", "demo/minlim"], "did you mean minilm?"),
        (&["ckpt", "restore", "demo/minilm", "--out", "o", "--names", "optimiser.st*"], "did you mean optimizer.step"),
        (&["data", "show", "demo/minilmm"], "did you mean minilm?"),
        (&["verify", "demmo"], "did you mean demo?"),
        (&["du", "demi"], "did you mean demo?"),
    ];
    for (arguments, hint) in cases {
        desk.fails(4, arguments, &[hint]);
    }
    desk.fails(4, &["--store", &format!("file://{}", desk.path("nowhere").display()), "ls"], &["no Gigastore store"]);
    desk.fails(4, &["ckpt", "save", "absent.safetensors", "--to", "demo/x@1"], &["absent.safetensors"]);
}

#[test]
fn arguments_that_make_no_sense_are_usage_errors() {
    let desk = saved();
    let cases: [(&[&str], &str); 9] = [
        (&["ckpt", "show", "Demo/minilm"], "Demo"),
        (&["ckpt", "show", "demo"], "demo"),
        (&["ckpt", "save", "m.safetensors", "--to", "demo/minilm"], "names no step"),
        (&["ckpt", "save", "m.safetensors", "--to", "demo/minilm@x"], "names no step"),
        (&["ckpt", "save", "m.safetensors", "--to", "demo/x@1", "--ranks", "0"], "--ranks"),
        (&["ckpt", "tag", "demo/minilm", "latest"], "latest"),
        (&["ckpt", "tag", "demo/minilm", "7"], "7"),
        (&["verify", "--sample", "0%"], "more than 0%"),
        (&["--store", "/tmp/store", "ls"], "did you mean --store file:///tmp/store?"),
    ];
    for (arguments, part) in cases {
        desk.fails(2, arguments, &[part]);
    }
    let mut bare = Command::new(env!("CARGO_BIN_EXE_gigastore"));
    let said = Said::of(bare.env_remove("GIGASTORE_STORE").args(["ls"]).output().unwrap());
    assert!(said.code == Some(2) && said.stderr.contains("--store URL or set GIGASTORE_STORE"), "{said:?}");
    desk.fails(1, &["ckpt", "show", "demo/minilm@100", "--store", "ftp://x/y"], &["ftp", "expected file:///DIR"]);
}

#[test]
fn errors_come_as_json_on_stderr_and_stdout_stays_empty() {
    let desk = saved();
    let said = desk.run(&["--format", "json", "ckpt", "show", "demo/minilmm"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(4), ""));
    let error: Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["code"], "not_found");
    assert_eq!(error["hint"], "did you mean minilm?");
    assert!(error["message"].as_str().unwrap().contains("minilmm"));
}

#[test]
fn errors_of_damage_name_object_expected_and_actual_in_parts() {
    let damaged = |part: &str, at: usize, arguments: &[&str]| -> Value {
        let desk = saved();
        let table = include_bytes!("../../formats/fixtures/packs-1.parquet");
        std::fs::write(desk.path("t.parquet"), table).unwrap();
        desk.ok(&["data", "push", "t.parquet", "--to", "demo/data"]);
        flip(&desk.stored(part), at);
        let said = desk.run(&[&["--format", "json"], arguments].concat());
        assert_eq!(said.code, Some(7), "{said:?}");
        serde_json::from_str(&said.stderr).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    };
    let cases: [(&str, usize, &[&str]); 4] = [
        ("/packs/", 20_000, &["ckpt", "restore", "demo/minilm", "--out", "out"]),
        ("/packs/", 100, &["ckpt", "restore", "demo/minilm", "--out", "out"]),
        ("/manifests/", 500, &["ckpt", "show", "demo/minilm"]),
        ("/blobs/", 700, &["data", "get", "demo/data", "--out", "out"]),
    ];
    for (part, at, arguments) in cases {
        let error = damaged(part, at, arguments);
        assert!(error["object"].as_str().unwrap().contains(&part[1..]), "{error}");
        let (expected, actual) = (error["expected"].as_str().unwrap(), error["actual"].as_str().unwrap());
        assert!(expected != actual && expected.len() == 64, "{error}");
    }
}

#[test]
fn characters_that_mean_something_in_urls_are_escaped_or_refused() {
    let desk = saved();
    for name in ["a#b", "a?b", "a%41b"] {
        let url = format!("file://{}", desk.path(name).display());
        if name != "a%41b" {
            let save = ["--store", &url, "ckpt", "save", "m.safetensors", "--to", "demo/x@1"];
            desk.fails(1, &save, &["%3F or %23", name]);
        }
        let hint = desk.fails(2, &["--store", name, "ls"], &["did you mean --store file:///"]);
        let meant = hint.split("--store ").nth(1).unwrap().split('?').next().unwrap();
        desk.ok(&["--store", meant, "ckpt", "save", "m.safetensors", "--to", "demo/x@1"]);
        assert!(desk.path(name).join("gigastore.json").exists(), "{meant}");
    }
}

#[test]
fn nothing_but_data_goes_to_stdout() {
    let desk = saved();
    for arguments in [&["ls"][..], &["ls", "demo"], &["ckpt", "show", "demo/minilm"], &["verify"], &["du"]] {
        let said = desk.run(arguments);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        desk.json(arguments);
    }
    let quiet = desk.run(&["-q", "ckpt", "save", "m.safetensors", "--to", "demo/minilm@101"]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
}

/// Runs a command whose stdout nobody reads.
fn unread(desk: &Desk, arguments: &[&str]) -> Said {
    let mut child = desk.command(arguments).spawn().unwrap();
    drop(child.stdout.take());
    Said::of(child.wait_with_output().unwrap())
}

#[test]
fn a_reader_that_is_gone_is_no_error_and_a_full_disk_is() {
    let desk = saved();
    let said = unread(&desk, &["ckpt", "show", "demo/minilm", "--slices"]);
    assert!(said.code == Some(0) && said.stderr.is_empty(), "{said:?}");
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let said = Said::of(desk.command(&["ls"]).stdout(full()).output().unwrap());
    assert!(said.code == Some(1) && said.stderr.contains("stdout could not be written"), "{said:?}");
    flip(&desk.stored("/packs/"), 5000);
    let said = Said::of(desk.command(&["verify"]).stdout(full()).output().unwrap());
    assert_eq!((said.code, said.stderr.matches("stdout could not").count()), (Some(7), 1), "{said:?}");
}

#[test]
fn a_reader_that_is_gone_does_not_end_the_work_nor_change_its_outcome() {
    let desk = saved();
    std::fs::create_dir(desk.path("corpus")).unwrap();
    for i in 0..5 {
        let table = include_bytes!("../../formats/fixtures/packs-1.parquet");
        std::fs::write(desk.path(&format!("corpus/{i}.parquet")), table).unwrap();
    }
    desk.ok(&["data", "push", "corpus", "--to", "demo/corpus"]);
    let said = unread(&desk, &["data", "get", "demo/corpus", "--out", "out"]);
    assert_eq!((said.code, desk.files("out").len()), (Some(0), 5), "{said:?}");
    flip(&desk.stored("/packs/"), 5000);
    let said = unread(&desk, &["verify"]);
    assert!(said.code == Some(7) && said.stderr.contains("findings"), "{said:?}");
}

#[test]
fn ctrl_c_leaves_nothing_visible_and_says_how_to_go_on() {
    let desk = saved();
    let save = ["ckpt", "save", "m.safetensors", "--to", "demo/two@1", "--ranks", "2", "--attempt", "job"];
    // Rank 0 waits for a rank that never comes, so that the signal finds it at work.
    let child = desk.command(&[&save[..], &["--rank", "0"]].concat()).spawn().unwrap();
    let (started, saves) = (Instant::now(), desk.path("store/projects/demo/saves"));
    let delivered = || {
        let parts = walk(&saves).into_iter().filter(|path| path.contains("/parts/")).count();
        parts >= 2
    };
    while !delivered() {
        assert!(started.elapsed() < Duration::from_secs(60), "the part of rank 0 did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.stderr.contains("interrupted") && said.stderr.contains("Run the same command again"), "{said:?}");
    desk.fails(4, &["ckpt", "show", "demo/two"], &["two"]);
    let mut first = desk.command(&[&save[..], &["--rank", "0"]].concat()).spawn().unwrap();
    desk.ok(&[&save[..], &["--rank", "1"]].concat());
    assert!(first.wait().unwrap().success());
    desk.ok(&["verify"]);
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

#[test]
fn every_command_has_help_with_an_example() {
    let desk = Desk::new();
    let groups: [&[&str]; 2] = [&["ckpt"], &["data"]];
    let commands: [&[&str]; 15] = [
        &[],
        &["ckpt", "save"],
        &["ckpt", "restore"],
        &["ckpt", "ls"],
        &["ckpt", "show"],
        &["ckpt", "diff"],
        &["ckpt", "tag"],
        &["data", "push"],
        &["data", "get"],
        &["data", "show"],
        &["data", "ls"],
        &["verify"],
        &["ls"],
        &["du"],
        &["demo"],
    ];
    let help = |command: &[&str]| {
        let help = desk.ok(&[command, &["--help"]].concat());
        assert!(help.contains("Usage: gigastore"), "{command:?}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command:?}: {help}");
        help
    };
    for group in groups {
        let listed = help(group);
        let subcommands = commands.iter().filter(|command| command.len() == 2 && command[0] == group[0]);
        subcommands
            .for_each(|command| assert!(listed.contains(&format!("\n  {}", command[1])), "{command:?}: {listed}"));
    }
    for command in commands {
        let help = help(command);
        let start = [&["  gigastore"], command].concat().join(" ");
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{command:?} has no example: {help}"));
        assert!(examples.lines().any(|line| line.starts_with(&start)), "no example of {start:?}: {help}");
    }
}
