//! Objects that are read past the service: from a path that both see, by a URL that it signed; and files of the store
//! that the kernel sends from maps.
//!
//! Must never take it on trust that the service was passed by: its own count of bytes says so.

use std::time::Duration;

use gigastore_formats::digest::Digest;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_server::Limits;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::save;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::proxy::{Asked, DATA, Misdeed, Proxy};
use crate::served::{Served, Setup, spec};
use crate::weather::{DEADLINES, SOON, client_of, restored};

/// A service that tells where objects lie, or not, and what is saved there.
async fn served(direct: bool) -> (Served, Vec<Tensor>) {
    let setup = Setup { limits: Limits { direct, ..Limits::default() }, ..Setup::default() };
    let (served, tensors) = (Served::with(setup).await, transformer(3, Size::SMALL));
    save(&served.store(None), spec("p", "run", 1, 2), &tensors).await.unwrap();
    (served, tensors)
}

fn bytes_of(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.data.len() as u64).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_both_see_is_read_past_the_service_and_verified() {
    for direct in [false, true] {
        let (served, tensors) = served(direct).await;
        let before = served.metric("gigastore_sent_bytes_total").await;
        restored(&served.store(None), &tensors).await.unwrap();
        let sent = served.metric("gigastore_sent_bytes_total").await - before;
        assert_eq!(sent < bytes_of(&tensors) / 2, direct, "{sent} of {} bytes", bytes_of(&tensors));

        let is_pack = |path: &std::path::Path| path.extension().is_some_and(|kind| kind == "safetensors");
        let path = served.files().into_keys().find(|path| is_pack(path)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = restored(&served.store(None), &tensors).await.unwrap_err();
        assert!(error.contains("integrity failure") && error.contains("packs/"), "direct {direct}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_is_read_without_our_token_and_the_service_has_what_does_not_come_from_there() {
    let hung = [Misdeed::Stall(0), Misdeed::Silence, Misdeed::Drip(Duration::from_millis(100))];
    let spoils = [Misdeed::Close(1000), Misdeed::OtherRange, Misdeed::Flip(70_000)].into_iter().chain(hung);
    for spoilt in std::iter::once(None).chain(spoils.map(Some)) {
        let (served, tensors) = served(false).await;
        let (front, other) = (Proxy::before(served.address).await, Proxy::before(served.address).await);
        front.tell_of(other.address);
        if let Some(misdeed) = spoilt {
            other.spoil(usize::MAX, misdeed);
        }
        let store = client_of(&[front.address], Some("secret"), DEADLINES);
        // A place that gives nothing is waited for once and not for each read.
        let ended = tokio::time::timeout(SOON, restored(&store, &tensors)).await;
        assert_eq!(ended.expect("a restore hangs"), Ok(()), "{spoilt:?}");
        let asked = other.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.target.ends_with("?signature=x")),
            "{spoilt:?}: {asked:?}"
        );
        assert!(asked.iter().all(|asked| asked.header("authorization").is_none()), "our token went elsewhere");
        let hangs = matches!(spoilt, Some(Misdeed::Stall(_) | Misdeed::Silence | Misdeed::Drip(_)));
        let in_vain = asked.iter().filter(|asked| asked.wants() >= DATA as u64).count();
        assert!(!hangs || in_vain <= 2, "{spoilt:?}: asked {in_vain} times in vain");
        let packs = |asked: &&Asked| asked.method == "GET" && asked.target.contains("/packs/");
        let (asked, places) = (front.asked(), front.asked().into_iter().filter(|one| one.target.ends_with("/places")));
        assert!(asked.iter().all(|asked| asked.header("authorization").is_some()));
        let stored =
            served.files().into_keys().filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"));
        assert!(places.count() <= stored.count(), "a place is asked for once");
        // Headers of packs come from the service in any case.
        let groups = asked.iter().filter(packs).filter(|asked| !asked.header("range").unwrap().starts_with("bytes=0-"));
        assert_eq!(groups.count() > 0, spoilt.is_some(), "{spoilt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_short_while_it_is_sent_breaks_the_answer_off_and_nothing_else() {
    let served = Served::new().await;
    let bytes = gigastore_tests::model::XorShift::new(5).bytes(48 << 20);
    let blob = Stored { digest: Digest::of(&bytes), epoch: 0 };
    let put = served.ask("PUT", &format!("/v1/projects/p/blobs/{blob}"), &[], &bytes).await;
    assert_eq!(put.status, 201, "{}", put.text());
    let path = served.store_folder().join("projects/p").join(blob.key(ObjectKind::Blob));
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /v1/projects/p/blobs/{blob} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = vec![0; 4096];
    stream.read_exact(&mut first).await.unwrap();
    // More is promised than the sockets hold.
    std::fs::File::options().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.len() < bytes.len() - 4096, "{} bytes came of a file of 1 MiB", rest.len());
    served.check_alive().await;
}
