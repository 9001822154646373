//! Two services on one store: a client that knows both goes on when one of them is killed.

use crate::process::{Service, against, has, wait};
use crate::run::{Desk, Said, read_safetensors};

#[test]
fn a_client_of_two_services_survives_either() {
    for first_dies in [true, false] {
        let desk = Desk::new();
        let tensors = desk.model("m", 1);
        let (mut a, mut b) = (Service::start(&desk, &[]), Service::start(&desk, &[]));
        let both = format!("{},{}", a.url(), b.url());
        let saves: Vec<_> = (0..2)
            .map(|rank| {
                let rank = rank.to_string();
                let save = ["-q", "ckpt", "save", "m.safetensors", "--to", "p/run@1", "--rank", &rank, "--ranks", "2"];
                let mut command = desk.command(&[&save[..], &["--attempt", "job"]].concat());
                command.env("GIGASTORE_STORE", &both).spawn().unwrap()
            })
            .collect();
        while !has(&desk.path("store/projects/p"), "/packs/", 1) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if first_dies {
            a.kill();
        } else {
            b.kill();
        }
        for mut save in saves {
            let status = wait(&mut save);
            let said = Said::of(save.wait_with_output().unwrap());
            assert_eq!(status.code(), Some(0), "{said:?}");
        }
        // A client that comes later finds the one that is left, and both see one store.
        let restored = against(&desk, &both, &["ckpt", "restore", "p/run@1", "--out", "out"]);
        assert_eq!(restored.code, Some(0), "{restored:?}");
        let expected: Vec<_> = tensors.iter().map(|one| (one.name.clone(), one.data.to_vec())).collect();
        assert_eq!(read_safetensors(&desk.path("out/model.safetensors")), expected);
    }
}

#[test]
fn what_one_service_committed_the_other_shows() {
    let desk = Desk::new();
    desk.model("m", 1);
    let (a, b) = (Service::start(&desk, &[]), Service::start(&desk, &[]));
    for (i, (to, from)) in [(&a, &b), (&b, &a), (&a, &b)].into_iter().enumerate() {
        let target = format!("p/run@{i}");
        let saved = against(&desk, &to.url(), &["ckpt", "save", "m.safetensors", "--to", &target]);
        assert_eq!(saved.code, Some(0), "{saved:?}");
        let shown = against(&desk, &from.url(), &["ckpt", "show", &target]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
    }
}
