//! The service is killed with -9 in every phase of a save by four processes, started again, and they carry on.

use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use gigastore_tests::model::Tensor;
use serde_json::json;

use crate::process::{Service, against, has, wait};
use crate::run::{Desk, Said, read_safetensors};

const RANKS: u32 = 4;

/// When the service is killed.
#[derive(Clone, Copy, Debug)]
enum When {
    /// So many files of this kind are in the store.
    There(&'static str, usize),
    /// So many milliseconds after the ranks were started.
    After(u64),
}

struct Save {
    desk: Desk,
    service: Service,
    tensors: Vec<Tensor>,
    ranks: Vec<Child>,
}

impl Save {
    fn start() -> Self {
        let desk = Desk::new();
        let tensors = desk.model("m", 1);
        let service = Service::start(&desk, &[]);
        let ranks = (0..RANKS).map(|rank| {
            let rank = rank.to_string();
            let save = ["-q", "ckpt", "save", "m.safetensors", "--to", "p/run@1", "--rank", &rank, "--ranks", "4"];
            let mut command = desk.command(&[&save[..], &["--attempt", "job"]].concat());
            command.env("GIGASTORE_STORE", service.url()).spawn().unwrap()
        });
        let ranks = ranks.collect();
        Self { desk, service, tensors, ranks }
    }

    fn folder(&self) -> PathBuf {
        self.desk.path("store/projects/p")
    }

    fn wait_for(&self, when: When) {
        let started = Instant::now();
        let come = |when| match when {
            When::There(part, count) => has(&self.folder(), part, count),
            When::After(ms) => started.elapsed() >= Duration::from_millis(ms),
        };
        while !come(when) {
            assert!(started.elapsed() < Duration::from_secs(60), "{when:?} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn restart(&mut self) {
        self.service = Service::start_at(&self.desk, self.service.address, &[]);
    }

    /// Checks that the checkpoint is there whole, or not at all, as a reader of the store's folder sees it.
    fn check_all_or_nothing(&self, when: When) {
        let shown = self.desk.run(&["ckpt", "show", "p/run@1"]);
        match shown.code {
            Some(0) => self.check_whole(when),
            Some(4) => assert!(!has(&self.folder(), "/log/", 1), "{when:?}: a record, but no checkpoint"),
            other => panic!("{when:?}: {other:?}: {shown:?}"),
        }
    }

    fn check_whole(&self, when: When) {
        let verified = self.desk.json(&["verify", "p"]);
        assert_eq!(verified[0]["report"]["findings"], json!([]), "{when:?}");
        self.desk.ok(&["ckpt", "restore", "p/run@1", "--out", "out", "--overwrite"]);
        let expected: Vec<_> = self.tensors.iter().map(|one| (one.name.clone(), one.data.to_vec())).collect();
        assert_eq!(read_safetensors(&self.desk.path("out/model.safetensors")), expected, "{when:?}");
    }

    fn finish(mut self, when: When) {
        for (rank, mut child) in std::mem::take(&mut self.ranks).into_iter().enumerate() {
            let status = wait(&mut child);
            let said = Said::of(child.wait_with_output().unwrap());
            assert_eq!(status.code(), Some(0), "{when:?}: rank {rank}: {said:?}");
        }
        self.check_whole(when);
        let info = self.desk.json(&["ckpt", "ls", "p"]);
        assert_eq!(info.as_array().map(Vec::len), Some(1), "{when:?}: {info}");
        assert!(!has(&self.folder(), "/log/", 2), "{when:?}: more than one record");
        let over_http = against(&self.desk, &self.service.url(), &["ckpt", "show", "p/run@1"]);
        assert_eq!(over_http.stdout, self.desk.ok(&["ckpt", "show", "p/run@1"]));
    }
}

fn killed_once(when: When) {
    let mut save = Save::start();
    save.wait_for(when);
    save.service.kill();
    save.check_all_or_nothing(when);
    save.restart();
    save.finish(when);
}

#[test]
fn killed_as_the_save_begins() {
    [When::After(0), When::There("begin.json", 1)].into_iter().for_each(killed_once);
}

#[test]
fn killed_while_packs_come() {
    [When::There("/packs/", 1), When::There("/packs/", 3)].into_iter().for_each(killed_once);
}

#[test]
fn killed_while_parts_come() {
    [When::There("/parts/", 1), When::There("/parts/", 4)].into_iter().for_each(killed_once);
}

#[test]
fn killed_around_the_commit() {
    [When::There("/manifests/", 1), When::There("/log/", 1)].into_iter().for_each(killed_once);
}

#[test]
fn killed_at_some_time_or_other() {
    [40, 90, 170, 300].map(When::After).into_iter().for_each(killed_once);
}

#[test]
fn killed_again_and_again() {
    let mut save = Save::start();
    for n in 0..6 {
        save.wait_for(When::After(60 + 45 * n));
        save.service.kill();
        save.check_all_or_nothing(When::After(n));
        save.restart();
    }
    save.finish(When::After(0));
}
