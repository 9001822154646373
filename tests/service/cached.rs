//! Services that keep blocks on a disk: killed while they write them, with no room for them, and several at once.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gigastore_tests::model::Tensor;

use crate::process::{Service, against, has};
use crate::run::{Desk, read_safetensors};

/// A desk whose store has a checkpoint.
fn filled() -> (Desk, Vec<Tensor>) {
    let desk = Desk::new();
    let tensors = desk.model("m", 1);
    desk.ok(&["ckpt", "save", "m.safetensors", "--to", "p/run@1"]);
    (desk, tensors)
}

fn check_restore(desk: &Desk, url: &str, tensors: &[Tensor], what: &str) {
    let restored = against(desk, url, &["ckpt", "restore", "p/run@1", "--out", "out", "--overwrite"]);
    assert_eq!(restored.code, Some(0), "{what}: {restored:?}");
    let expected: Vec<_> = tensors.iter().map(|one| (one.name.clone(), one.data.to_vec())).collect();
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected, "{what}");
}

#[test]
fn killed_while_it_fills_its_cache_a_service_leaves_nothing_wrong() {
    let (desk, tensors) = filled();
    let cache = ["--cache-dir", "near"];
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut service = Service::start_at(&desk, address, &cache);
    let again = service.address;
    for round in 0..12u64 {
        // Killed at another moment each time: before, while and after blocks are written.
        let mut command = desk.command(&["-q", "ckpt", "restore", "p/run@1", "--out", "out", "--overwrite"]);
        let mut client = command.env("GIGASTORE_STORE", service.url()).spawn().unwrap();
        let started = Instant::now();
        let reached = |blocks| has(&desk.path("near/v1"), "/v1/", blocks);
        while started.elapsed() < Duration::from_millis(400) && !reached(1 + round as usize % 4) {
            std::thread::sleep(Duration::from_micros(200 * round));
        }
        service.kill();
        // The first half of what a killed writer leaves is swept like a whole one.
        std::fs::write(desk.path(&format!("near/v1/staging/{round:016x}")), [7; 1000]).unwrap();
        service = Service::start_at(&desk, again, &cache);
        // The client outlives the service, or had its answer.
        assert!(client.wait().unwrap().success(), "round {round}");
        check_restore(&desk, &service.url(), &tensors, &format!("round {round}"));
        if round % 3 == 2 {
            std::fs::remove_dir_all(desk.path("near")).unwrap();
        }
    }
    let until = Instant::now() + Duration::from_secs(20);
    while has(&desk.path("near/v1/staging"), "staging", 1) {
        assert!(Instant::now() < until, "what kills left stays");
        check_restore(&desk, &service.url(), &tensors, "at the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_again_and_again_a_service_delays_restores_and_breaks_none() {
    let (desk, tensors) = filled();
    let service = Service::start(&desk, &["--cache-dir", "near"]);
    let (address, url) = (service.address, service.url());
    let restarting = {
        let command = || {
            let listen = address.to_string();
            let arguments = ["serve", "--listen", &listen, "--log", "quiet", "--keep-free", "0", "--cache-dir", "near"];
            desk.command(&arguments)
        };
        let mut commands: Vec<Command> = (0..8).map(|_| command()).collect();
        std::thread::spawn(move || {
            let mut service = service;
            for (i, command) in commands.drain(..).enumerate() {
                std::thread::sleep(Duration::from_millis(120 + 30 * i as u64));
                service.kill();
                service = Service::spawn(command);
            }
            service
        })
    };
    let mut restores = 0;
    while !restarting.is_finished() {
        check_restore(&desk, &url, &tensors, "while it restarts");
        restores += 1;
    }
    let service = restarting.join().unwrap();
    check_restore(&desk, &url, &tensors, "after the last restart");
    println!("{restores} restores while the service was killed 8 times");
    assert!(service.metric("gigastore_cache_hits_total{tier=\"disk\"}").await > 0);
}

/// Starts a service whose cache has a disk of 3 MiB, where this user may have one of its own; else one that may write
/// no file of more than 1 MiB, so that each block fails in its middle.
fn without_room(desk: &Desk) -> (Service, &'static str) {
    let binary = env!("CARGO_BIN_EXE_gigastore");
    let serve = "exec \"$0\" serve --listen 127.0.0.1:0 --log quiet --keep-free 0 --cache-dir near";
    let mount = format!("mount -t tmpfs -o size=3m tmpfs near && {serve}");
    std::fs::create_dir_all(desk.path("near")).unwrap();
    let spaces = ["--user", "--map-root-user", "--mount"];
    let mut trial = Command::new("unshare");
    trial.args(spaces).args(["sh", "-c", "mount -t tmpfs -o size=3m tmpfs near"]).current_dir(desk.path(""));
    let own_disk = trial.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let mut command = if own_disk { Command::new("unshare") } else { Command::new("sh") };
    if own_disk {
        command.args(spaces).args(["sh", "-c", &mount, binary]);
    } else {
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f 2048; {serve}"), binary]);
    }
    command.current_dir(desk.path("")).stdin(Stdio::null()).stdout(Stdio::piped());
    command.env("GIGASTORE_STORE", format!("file://{}", desk.path("store").display()));
    (Service::spawn(command), if own_disk { "a disk of 3 MiB" } else { "no file over 1 MiB" })
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_blocks_come_from_the_store() {
    let (desk, tensors) = filled();
    let (service, how) = without_room(&desk);
    println!("{how}");
    for round in 0..4 {
        check_restore(&desk, &service.url(), &tensors, how);
        assert!(round == 0 || service.metric("gigastore_cache_errors_total{tier=\"disk\"}").await > 0, "{how}");
    }
    assert!(service.metric("gigastore_cache_misses_total{tier=\"disk\"}").await > 0);
    assert_eq!(service.metric("gigastore_cache_damaged_total{tier=\"disk\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_and_a_client_of_one_directory_stay_within_it() {
    let desk = Desk::new();
    let models: Vec<(String, Vec<Tensor>)> =
        (1..4).map(|seed| (format!("m{seed}"), desk.model(&format!("m{seed}"), seed))).collect();
    for (name, _) in &models {
        desk.ok(&["ckpt", "save", &format!("{name}.safetensors"), "--to", &format!("p/{name}@1")]);
    }
    let near = ["--cache-dir", "near", "--cache-disk", "256"];
    let (first, second) = (Service::start(&desk, &near), Service::start(&desk, &near));
    std::thread::scope(|scope| {
        for (i, (name, tensors)) in models.iter().enumerate() {
            let (desk, url) = (&desk, if i % 2 == 0 { first.url() } else { second.url() });
            scope.spawn(move || {
                let (target, out) = (format!("p/{name}@1"), format!("out-{name}"));
                for _ in 0..3 {
                    let mut restore = desk.command(&["ckpt", "restore", &target, "--out", &out, "--overwrite"]);
                    // Its own reads go through the same directory.
                    restore.env("GIGASTORE_STORE", &url).env("GIGASTORE_CACHE", desk.path("near"));
                    let said = crate::run::Said::of(restore.output().unwrap());
                    assert_eq!(said.code, Some(0), "{said:?}");
                    let read = read_safetensors(&desk.path(&format!("{out}/model.safetensors")));
                    let expected: Vec<_> = tensors.iter().map(|one| (one.name.clone(), one.data.to_vec())).collect();
                    assert_eq!(read, expected);
                }
            });
        }
    });
    for service in [&first, &second] {
        assert_eq!(service.metric("gigastore_cache_errors_total{tier=\"disk\"}").await, 0);
        assert_eq!(service.metric("gigastore_cache_damaged_total{tier=\"disk\"}").await, 0);
    }
    let bytes: u64 = desk.files("near").iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(bytes > 0 && bytes <= 256 << 20, "{bytes}");
}

#[test]
fn a_client_says_that_its_cache_can_not_be_used_and_goes_on() {
    let (desk, tensors) = filled();
    let service = Service::start(&desk, &[]);
    std::fs::write(desk.path("occupied"), "").unwrap();
    let mut restore = desk.command(&["ckpt", "restore", "p/run@1", "--out", "out"]);
    restore.env("GIGASTORE_STORE", service.url()).env("GIGASTORE_CACHE", desk.path("occupied"));
    let said = crate::run::Said::of(restore.output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("occupied") && said.stderr.contains("reading from the store"), "{said:?}");
    let expected: Vec<_> = tensors.iter().map(|one| (one.name.clone(), one.data.to_vec())).collect();
    assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected);
    let mut wrong = desk.command(&["ls"]);
    wrong.env("GIGASTORE_STORE", service.url()).env("GIGASTORE_CACHE", "near").env("GIGASTORE_CACHE_BYTES", "32 GiB");
    let said = crate::run::Said::of(wrong.output().unwrap());
    assert!(said.code != Some(0) && said.stderr.contains("GIGASTORE_CACHE_BYTES"), "{said:?}");
}
