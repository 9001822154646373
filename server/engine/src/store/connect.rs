//! From the URL of a store to whatever talks to it: a folder, or a cloud store with its settings.
//!
//! Must never talk to the store itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStoreScheme as Scheme;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{ClientConfigKey, ObjectStore};

use super::folder;
use super::open::{OpenError, OpenMode, StoreUrl};
use super::uploads::Uploads;

/// How long one request to a cloud store may take, where the settings do not say otherwise; object_store's own 30
/// seconds for a whole request, body included, would end sound but slow transfers.
///
/// `read_timeout` is the deadline on progress: it starts anew with every piece of an answer. Until an answer begins it
/// also covers what is sent, at most one part until the store has shown that it takes more in a third of the time: 8
/// MiB in 60 seconds, with three parts in flight, is 400 KiB a second.
/// `timeout` is for what makes progress too slowly to be of use: at that speed the longest answer read as one, a
/// manifest of 4 GiB, takes three hours.
const DEADLINES: [(&str, &str); 2] = [("read_timeout", "60s"), ("timeout", "3h")];

/// What talks to a store.
pub(super) struct Connected {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Signs URLs of objects, where the store has such.
    pub(super) signer: Option<Arc<dyn Signer>>,
    /// The folder that the objects are files of, where there is one.
    pub(super) folder: Option<PathBuf>,
    /// Uploads in parts that may be left unfinished, where a store lists them.
    pub(super) uploads: Option<Uploads>,
}

/// Gives settings to the builder of a cloud store. They are case-insensitive keys; what is not one of its own is passed
/// over.
macro_rules! with_settings {
    ($builder:expr, $settings:expr) => {
        $settings.fold($builder, |builder, (key, value): (String, String)| match key.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        })
    };
}

pub(super) fn connect(
    url: &StoreUrl,
    mode: OpenMode,
    settings: impl IntoIterator<Item = (String, String)>,
) -> Result<Connected, OpenError> {
    let setup = |source| OpenError::Setup { url: url.to_string(), source };
    if let Ok(path) = url.0.to_file_path() {
        return local(url, &path, mode);
    }
    let settings = settings.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value));
    let settings = DEADLINES.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain(settings);
    let (scheme, prefix) = Scheme::parse(&url.0).map_err(|error| setup(error.into()))?;
    match scheme {
        Scheme::AmazonS3 => s3(url, settings.collect()).build().and_then(|store| {
            let uploads = Some(Uploads::new(store.clone(), prefix.clone())?);
            Ok(Connected { uploads, ..cloud(store, prefix) })
        }),
        Scheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::new().with_url(url.to_string());
            with_settings!(builder, settings).build().map(|store| cloud(store, prefix))
        }
        Scheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::new().with_url(url.to_string());
            with_settings!(builder, settings).build().map(|store| cloud(store, prefix))
        }
        _ => object_store::parse_url_opts(&url.0, settings).map(|(store, prefix)| {
            let store = Arc::new(PrefixStore::new(store, prefix));
            Connected { store, signer: None, folder: None, uploads: None }
        }),
    }
    .map_err(setup)
}

/// Returns the builder of a client of S3. Where all requests go through TLS to the server that is meant, signatures do
/// not cover these unless the settings say so: a SHA-256 of each takes more processor time than all else of a save.
fn s3(url: &StoreUrl, settings: Vec<(String, String)>) -> AmazonS3Builder {
    let unsafe_keys = [ClientConfigKey::AllowHttp, ClientConfigKey::AllowInvalidCertificates];
    let unsafe_keys = unsafe_keys.map(AmazonS3ConfigKey::Client);
    let only_tls = settings.iter().all(|(key, _)| key.parse().map_or(true, |key| !unsafe_keys.contains(&key)));
    let builder = AmazonS3Builder::new().with_url(url.to_string()).with_unsigned_payload(only_tls);
    with_settings!(builder, settings.into_iter())
}

fn cloud<T: ObjectStore + Signer>(store: T, prefix: Key) -> Connected {
    let store = Arc::new(PrefixStore::new(store, prefix));
    Connected { store: Arc::<PrefixStore<T>>::clone(&store), signer: Some(store), folder: None, uploads: None }
}

fn local(url: &StoreUrl, path: &Path, mode: OpenMode) -> Result<Connected, OpenError> {
    if mode == OpenMode::Create {
        folder::make_store(path).map_err(|source| OpenError::Folder { url: url.to_string(), source })?;
    } else if !path.is_dir() {
        return Err(OpenError::Absent { url: url.to_string() });
    }
    // A link is followed once, so that all of this process goes to one folder.
    let path = path.canonicalize().map_err(|source| OpenError::Folder { url: url.to_string(), source })?;
    let store = LocalFileSystem::new_with_prefix(&path);
    let store = store.map_err(|source| OpenError::Setup { url: url.to_string(), source })?;
    // An acknowledged object must survive a power cut.
    Ok(Connected { store: Arc::new(store.with_fsync(true)), signer: None, folder: Some(path), uploads: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_signed_where_a_request_may_go_without_tls_or_the_settings_say_so() {
        let signed = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let builder = s3(&"s3://bucket/store".parse().unwrap(), settings.collect());
            builder.get_config_value(&AmazonS3ConfigKey::UnsignedPayload).unwrap() == "false"
        };
        assert!(!signed(&[]) && !signed(&[("aws_endpoint", "https://store.example"), ("path", "/usr/bin")]));
        assert!(signed(&[("aws_allow_http", "true")]) && signed(&[("allow_http", "true"), ("aws_region", "x")]));
        assert!(signed(&[("aws_unsigned_payload", "false")]) && signed(&[("allow_invalid_certificates", "true")]));
        assert!(!signed(&[("aws_unsigned_payload", "true"), ("aws_allow_http", "true")]));
    }
}
