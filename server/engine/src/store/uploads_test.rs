//! Tests of unfinished uploads, against a server that answers as S3 does.

use std::sync::Mutex;

use object_store::aws::AmazonS3Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each request by its request line; returns the endpoint and what was asked.
async fn serve(answer: fn(&str) -> (u16, String)) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut piece = [0; 4096];
                let read = socket.read(&mut piece).await.unwrap();
                assert!(read > 0, "the request ended early");
                request.extend_from_slice(&piece[..read]);
            }
            let text = String::from_utf8(request).unwrap();
            let line = text.lines().next().unwrap().to_owned();
            let (status, body) = answer(&line);
            noted.lock().unwrap().push(line);
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    (endpoint, asked)
}

fn uploads(endpoint: &str) -> Uploads {
    let store = AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        .build();
    Uploads::new(store.unwrap(), Path::from("pre")).unwrap()
}

fn upload(key: &str, id: &str, initiated: &str) -> String {
    format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{initiated}</Initiated></Upload>")
}

/// Two pages: of four uploads two are ours and old.
fn two_pages(line: &str) -> (u16, String) {
    if line.starts_with("DELETE ") {
        return (204, String::new());
    }
    let xml = |inner: String| {
        let open =
            r#"<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>bucket</Bucket>"#;
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{open}{inner}</ListMultipartUploadsResult>")
    };
    let body = if line.contains("key-marker=") {
        let ours = upload("pre/projects/p/blobs/5e/y.0.parquet", "three", "2026-11-24T03:14:59Z");
        let foreign = upload("pre/projects/q/blobs/5e/y.0.parquet", "four", "2020-01-01T00:00:00.000Z");
        xml(format!("<IsTruncated>false</IsTruncated>{ours}{foreign}"))
    } else {
        let old = upload("pre/projects/p/packs/5e/x.0.safetensors", "one", "2026-11-24T03:14:59.999Z");
        let young = upload("pre/projects/p/packs/5e/x.1.safetensors", "two", "2026-11-24T03:15:00.000Z");
        let next = "<NextKeyMarker>k/1</NextKeyMarker><NextUploadIdMarker>two</NextUploadIdMarker>";
        xml(format!("{next}<IsTruncated>true</IsTruncated>{old}{young}"))
    };
    (200, body)
}

#[tokio::test]
async fn old_uploads_below_the_project_are_given_up() {
    let (endpoint, asked) = serve(two_pages).await;
    let uploads = uploads(&endpoint);
    // 2026-11-24 03:15:00.
    let before = 1_795_490_100_000;
    assert_eq!(Moment::of_ms(before).to_string(), "2026-11-24 03:15:00Z");
    assert_eq!(uploads.abort("projects/p", before, true).await.unwrap(), 2);
    assert_eq!(asked.lock().unwrap().len(), 2, "a dry run only lists");
    assert_eq!(uploads.abort("projects/p", before, false).await.unwrap(), 2);
    let asked = asked.lock().unwrap().split_off(2);
    let lists = asked.iter().filter(|line| line.starts_with("GET /bucket/?")).collect::<Vec<_>>();
    assert_eq!(lists.len(), 2);
    for line in &lists {
        for part in ["uploads=", "prefix=pre%2Fprojects%2Fp%2F", "X-Amz-Signature="] {
            assert!(line.contains(part), "no {part} in {line}");
        }
    }
    assert!(lists[1].contains("key-marker=k%2F1") && lists[1].contains("upload-id-marker=two"), "{lists:?}");
    let deleted: Vec<_> = asked.iter().filter(|line| line.starts_with("DELETE ")).collect();
    assert_eq!(deleted.len(), 2);
    assert!(deleted[0].contains("/bucket/pre/projects/p/packs/5e/x.0.safetensors?uploadId=one"), "{deleted:?}");
    assert!(deleted[1].contains("uploadId=three"), "{deleted:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_list_is_an_error() {
    for (answer, part) in [
        ((|_| (403, "<Error><Code>AccessDenied</Code></Error>".to_owned())) as fn(&str) -> (u16, String), "403"),
        (|_| (200, "<html>".to_owned()), ""),
        (|_| (200, " ".repeat(9 << 20)), "over 8388608 bytes"),
    ] {
        let (endpoint, _) = serve(answer).await;
        let error = uploads(&endpoint).abort("projects/p", 0, false).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
