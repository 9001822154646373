//! How a service starts, and where it refuses to: open to anyone, in the clear, without what it was told to use.

use std::process::Command;

use crate::process::{Service, against};
use crate::run::{Desk, Said};

/// Valid until 2126, for localhost and 127.0.0.1; the authority's key was thrown away.
const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/service/authority.pem");
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/service/certificate.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/service/key.pem");

fn tokens(desk: &Desk) -> String {
    let create = ["-q", "token", "create", "--tokens", "tokens.json", "--name", "t", "--scope", "p:write"];
    desk.ok(&create).trim().to_owned()
}

#[test]
fn it_refuses_to_start_where_anyone_could_reach_it() {
    let desk = Desk::new();
    tokens(&desk);
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let serve = ["serve", "--listen", listen];
        desk.fails(2, &serve, &["without a token file", "--tokens FILE", listen]);
        desk.fails(2, &[&serve[..], &["--behind-proxy"]].concat(), &["without a token file"]);
        let tls = ["--tls-cert", CERTIFICATE, "--tls-key", KEY];
        desk.fails(2, &[&serve[..], &tls].concat(), &["without a token file"]);
        let with_tokens = [&serve[..], &["--tokens", "tokens.json"]].concat();
        desk.fails(2, &with_tokens, &["unencrypted", "--tls-cert", "--behind-proxy"]);
    }
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for (more, parts) in [
        (&["--tls-cert", CERTIFICATE][..], &["--tls-key"][..]),
        (&["--tls-cert", "absent.pem", "--tls-key", KEY], &["absent.pem"]),
        (&["--tls-cert", KEY, "--tls-key", KEY], &["TLS with", "key.pem"]),
        (&["--tls-cert", CERTIFICATE, "--tls-key", CERTIFICATE], &["TLS with", "certificate.pem"]),
        (&["--tls-cert", AUTHORITY, "--tls-key", KEY], &["TLS with"]),
        (&["--tokens", "absent.json"], &["absent.json"]),
        (&["--tokens", CERTIFICATE], &["certificate.pem", "token create"]),
    ] {
        let said = desk.run(&[&serve[..], more].concat());
        assert!(matches!(said.code, Some(1 | 2)), "{more:?}: {said:?}");
        for part in parts {
            assert!(said.stderr.contains(part), "{more:?}: no {part:?} in {}", said.stderr);
        }
    }
}

#[test]
fn it_starts_with_tokens_behind_a_proxy_or_with_tls() {
    let desk = Desk::new();
    tokens(&desk);
    let any = "0.0.0.0:0".parse().unwrap();
    drop(Service::start_at(&desk, any, &["--tokens", "tokens.json", "--behind-proxy"]));
    let tls = ["--tls-cert", CERTIFICATE, "--tls-key", KEY];
    drop(Service::start_at(&desk, any, &[&["--tokens", "tokens.json"][..], &tls].concat()));
}

fn with(desk: &Desk, store: &str, variables: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = desk.command(arguments);
    command.env("GIGASTORE_STORE", store).env_remove("GIGASTORE_TOKEN").envs(variables.iter().copied());
    Said::of(command.output().unwrap())
}

#[test]
fn tokens_decide_over_the_command_line_too() {
    let desk = Desk::new();
    desk.model("m", 1);
    let writer = tokens(&desk);
    let service = Service::start(&desk, &["--tokens", "tokens.json"]);
    let save = |project: &str, token: &[(&str, &str)]| {
        let to = format!("{project}/run@1");
        with(&desk, &service.url(), token, &["ckpt", "save", "m.safetensors", "--to", &to])
    };
    let write = [("GIGASTORE_TOKEN", writer.as_str())];
    assert_eq!(save("p", &write).code, Some(0));
    for (what, said, part) in [
        ("none", save("p", &[]), "needs a token"),
        ("unknown", save("p", &[("GIGASTORE_TOKEN", "gst_00000000_x")]), "not known"),
        ("another project", save("q", &write), "project q"),
    ] {
        assert!(said.code.is_some_and(|code| code != 0), "{what}: {said:?}");
        assert!(said.stderr.contains(part) && !said.stderr.contains(&writer), "{what}: {said:?}");
    }
    assert_eq!(with(&desk, &service.url(), &write, &["ls"]).stdout, "p\n");
}

#[test]
fn tls_is_spoken_and_only_with_who_is_known() {
    let desk = Desk::new();
    desk.model("m", 1);
    let tls = ["--tls-cert", CERTIFICATE, "--tls-key", KEY];
    let service = Service::start(&desk, &tls);
    let port = service.address.port();
    let known = [("SSL_CERT_FILE", AUTHORITY)];
    for host in ["127.0.0.1", "localhost"] {
        let url = format!("https://{host}:{port}");
        let target = format!("p/{host}@1").replace("127.0.0.1", "ip");
        let saved = with(&desk, &url, &known, &["ckpt", "save", "m.safetensors", "--to", &target]);
        assert_eq!(saved.code, Some(0), "{saved:?}");
        let stranger = with(&desk, &url, &[], &["ls"]);
        assert!(stranger.code.is_some_and(|code| code != 0), "{stranger:?}");
        assert!(stranger.stderr.contains("certificate is not trusted"), "{stranger:?}");
        assert!(stranger.stderr.contains("SSL_CERT_FILE"), "{stranger:?}");
    }
    // A service without TLS is told from one that is not trusted.
    let clear = Service::start(&desk, &[]);
    let clear = with(&desk, &format!("https://127.0.0.1:{}", clear.address.port()), &known, &["ls"]);
    assert!(clear.stderr.contains("does not speak TLS") && clear.stderr.contains("http://"), "{clear:?}");
    // The name must be right too.
    let elsewhere = Service::start_at(&desk, "127.0.0.2:0".parse().unwrap(), &tls);
    let other = with(&desk, &format!("https://{}", elsewhere.address), &known, &["ls"]);
    assert!(other.stderr.contains("certificate is not trusted"), "{other:?}");
    let curl = |more: &[&str]| {
        let url = format!("https://localhost:{port}/healthz");
        Command::new("curl").args(["-sS", "--max-time", "10"]).args(more).arg(url).output()
    };
    // Another program's eyes, where there is one.
    if let Ok(trusting) = curl(&["--cacert", AUTHORITY]) {
        assert_eq!(String::from_utf8_lossy(&trusting.stdout), "ok\n", "{trusting:?}");
        let stranger = curl(&[]).unwrap();
        assert!(!stranger.status.success() && stranger.stdout.is_empty(), "{stranger:?}");
    }
    assert_eq!(against(&desk, &format!("file://{}", desk.path("store").display()), &["ls"]).stdout, "p\n");
}
