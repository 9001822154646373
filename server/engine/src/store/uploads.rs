//! Uploads in parts that were never finished: what a killed process leaves on S3, where no listing of objects shows it
//! and every part is paid for.
//!
//! The object store's client has no list of them, so that it is asked for by a signed URL. Must never give up an upload
//! that may still go on: only those begun long ago.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::StreamExt;
use gigastore_formats::moment::Moment;
use http::Method;
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, ReqwestConnector};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{ClientOptions, Error};
use serde::Deserialize;

use super::{Objects, StoreError};

/// Bytes of one page of a list: 8 MiB; a thousand uploads take 2 KiB each at most, as keys end at 1 KiB.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// How long a page may take, and its URL is good.
const PAGE_TIME: Duration = Duration::from_secs(60);

/// Characters of a date and time that are compared: down to the second, which every store writes alike.
const SECONDS: usize = "2026-11-24T03:15:00".len();

/// A store that has uploads in parts, and where in it ours are.
#[derive(Clone, Debug)]
pub(super) struct Uploads {
    store: Arc<AmazonS3>,
    prefix: Path,
    client: HttpClient,
}

/// A page of the list, as S3 writes it.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Upload>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Uploads {
    pub(super) fn new(store: AmazonS3, prefix: Path) -> Result<Self, Error> {
        // Whether the endpoint may be without TLS was decided where the store was set up.
        let options = ClientOptions::new().with_allow_http(true).with_timeout(PAGE_TIME);
        let client = ReqwestConnector::default().connect(&options)?;
        Ok(Self { store: Arc::new(store), prefix, client })
    }

    /// Gives up the uploads below `folder` that were begun before `before_ms`; returns how many.
    async fn abort(&self, folder: &str, before_ms: u64, dry_run: bool) -> Result<u64, Error> {
        let below = format!("{}/", self.prefix.parts().chain(Path::from(folder).parts()).collect::<Path>());
        let before = Moment::of_ms(before_ms).rfc3339();
        let (mut aborted, mut key_marker, mut id_marker) = (0, String::new(), String::new());
        loop {
            let page = self.page(&below, &key_marker, &id_marker).await?;
            for upload in page.uploads {
                let old = upload.initiated.get(..SECONDS).is_some_and(|begun| begun < &before[..SECONDS]);
                if !old || !upload.key.starts_with(&below) {
                    continue;
                }
                let key = Path::parse(&upload.key).map_err(|error| failed(Box::new(error)))?;
                if !dry_run {
                    match self.store.abort_multipart(&key, &upload.upload_id).await {
                        Ok(()) => {}
                        // It was finished or given up meanwhile.
                        Err(Error::NotFound { .. }) => continue,
                        Err(error) => return Err(error),
                    }
                }
                aborted += 1;
            }
            let moved = (&page.next_key_marker, &page.next_upload_id_marker) != (&key_marker, &id_marker);
            if !page.is_truncated || !moved {
                return Ok(aborted);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn page(&self, below: &str, key_marker: &str, id_marker: &str) -> Result<Page, Error> {
        let mut query = vec![("uploads", ""), ("prefix", below)];
        if !key_marker.is_empty() {
            query.extend([("key-marker", key_marker), ("upload-id-marker", id_marker)]);
        }
        let options = SignedUrlOptions::new().with_query(query);
        let url = self.store.signed_url_opts(Method::GET, &Path::default(), PAGE_TIME, &options).await?;
        let request = http::Request::get(url.as_str()).body(HttpRequestBody::empty());
        let request = request.map_err(|error| failed(Box::new(error)))?;
        let response = self.client.execute(request).await.map_err(|error| failed(Box::new(error)))?;
        let status = response.status();
        let (mut bytes, mut pieces) = (Vec::new(), response.into_body().bytes_stream());
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| failed(Box::new(error)))?);
            if bytes.len() > MAX_PAGE_BYTES {
                return Err(failed(format!("the list of uploads is over {MAX_PAGE_BYTES} bytes").into()));
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if !status.is_success() {
            let text: String = text.chars().take(200).collect();
            return Err(failed(format!("the list of uploads was answered with {status}: {text}").into()));
        }
        quick_xml::de::from_str(&text).map_err(|error| failed(Box::new(error)))
    }
}

fn failed(source: Box<dyn std::error::Error + Send + Sync + 'static>) -> Error {
    Error::Generic { store: "S3", source }
}

impl Objects {
    /// Gives up (`dry_run`: only counts) the uploads in parts below `folder` that were begun before `before_ms`,
    /// milliseconds since 1970. Only S3 is asked: in a folder such are files, Azure forgets them after a week, and for
    /// GCS a rule of the bucket does it.
    pub(crate) async fn abort_uploads(&self, folder: &str, before_ms: u64, dry_run: bool) -> Result<u64, StoreError> {
        let Some(uploads) = &self.uploads else { return Ok(0) };
        uploads.abort(folder, before_ms, dry_run).await.map_err(|source| StoreError::sort(folder, source))
    }
}

#[cfg(test)]
#[path = "uploads_test.rs"]
mod tests;
