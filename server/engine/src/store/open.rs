//! From a URL to an open store: `file:///dir`, `memory:///`, `s3://`, `gs://`, `az://`.
//!
//! Must never create anything where the caller only wants to read. Settings of the cloud stores are object_store's own
//! environment keys (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_…`, `AZURE_…`), passed in by the caller.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use gigastore_formats::ambient::Ambient;
use gigastore_formats::record::{FORMAT_VERSION, Marker};
use gigastore_formats::sealed::{SealError, seal, unseal};
use object_store::ObjectStore;
use url::Url;

use super::connect::{Connected, connect};
use super::keys::MARKER;
use super::{Objects, StoreError};

/// Bytes of the marker: it has two fields; 4 KiB leave room for newer versions to say more.
const MAX_MARKER_BYTES: u64 = 4096;

/// The address of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreUrl(pub(super) Url);

/// Whether a store that is not there yet is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// It must be there.
    Existing,
    /// It is created where it is not there.
    Create,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is not the URL of a store.
    #[error(
        "{text:?} is not the URL of a store: {reason} (expected file:///DIR, s3://BUCKET/PREFIX, gs://…, az://… or \
         memory:///)"
    )]
    Url {
        /// What was given.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// The object store's own settings are wrong.
    #[error("the object store behind {url} could not be set up: check its settings in the environment")]
    Setup {
        /// The store.
        url: String,
        /// What the library said.
        #[source]
        source: object_store::Error,
    },
    /// The folder could not be made.
    #[error("the folder of {url} could not be made")]
    Folder {
        /// The store.
        url: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// There is no store at that place.
    #[error(
        "no Gigastore store at {url}: `gigastore ckpt save` or `gigastore data push` creates one; is the URL right?"
    )]
    Absent {
        /// The store.
        url: String,
    },
    /// The store is of a version that this program does not know.
    #[error(
        "the store at {url} has format version {found}, this program knows up to {FORMAT_VERSION}: use a newer \
         gigastore"
    )]
    Newer {
        /// The store.
        url: String,
        /// Its version.
        found: u32,
    },
    /// The marker is damaged.
    #[error("{MARKER} at {url} is damaged: {source}; every object of the store may be, so restore this file first")]
    Marker {
        /// The store.
        url: String,
        /// What is wrong with it.
        source: SealError,
    },
    /// The marker belongs to something else.
    #[error("{MARKER} at {url} says format {found:?}, expected \"gigastore\": this is another program's store")]
    Foreign {
        /// The store.
        url: String,
        /// What it says.
        found: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FromStr for StoreUrl {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        let refuse = |reason: String| OpenError::Url { text: text.to_owned(), reason };
        let url = Url::parse(text).map_err(|error| refuse(error.to_string()))?;
        if !matches!(url.scheme(), "file" | "memory" | "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss") {
            return Err(refuse(format!("unknown scheme {:?}", url.scheme())));
        }
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "it has a `?` or `#`, which ends the path: write %3F or %23 where it belongs to a name";
            return Err(refuse(reason.to_owned()));
        }
        if url.scheme() == "file" && url.to_file_path().is_err() {
            return Err(refuse("a file URL needs an absolute path and no host".to_owned()));
        }
        Ok(Self(url))
    }
}

impl StoreUrl {
    /// Returns the folder of a store on this machine.
    pub fn folder(&self) -> Option<PathBuf> {
        self.0.to_file_path().ok().filter(|_| self.0.scheme() == "file")
    }

    /// Returns the URL of a store in a folder; fails where the path is not absolute. Characters that mean something in
    /// URLs (`#`, `?`, `%`) are escaped.
    pub fn of_folder(path: &Path) -> Result<Self, OpenError> {
        let refuse = |()| OpenError::Url { text: path.display().to_string(), reason: "it is not absolute".to_owned() };
        Url::from_file_path(path).map(Self).map_err(refuse)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Objects {
    /// Opens the store at `url` and checks its marker. `settings` are key-value pairs such as the environment's.
    pub(crate) async fn open(
        url: &StoreUrl,
        mode: OpenMode,
        settings: impl IntoIterator<Item = (String, String)>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, OpenError> {
        let objects = Self::over(connect(url, mode, settings)?, url.to_string(), ambient);
        objects.check_marker(mode).await?;
        Ok(objects)
    }

    /// Takes an object store that is set up already, and checks its marker.
    pub(crate) async fn with_store(
        store: Arc<dyn ObjectStore>,
        url: String,
        mode: OpenMode,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Self, OpenError> {
        let connected = Connected { store, signer: None, folder: None, uploads: None };
        let objects = Self::over(connected, url, ambient);
        objects.check_marker(mode).await?;
        Ok(objects)
    }

    /// Tells whether the store answers at all: whether its marker can be read.
    pub(crate) async fn answers(&self) -> bool {
        self.get(MARKER, MAX_MARKER_BYTES).await.is_ok()
    }

    async fn check_marker(&self, mode: OpenMode) -> Result<(), OpenError> {
        let url = || self.url().to_owned();
        let bytes = match self.get(MARKER, MAX_MARKER_BYTES).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) if mode == OpenMode::Create => {
                // Another process may create it at the same moment: both write the same bytes, and either is read back.
                self.create(MARKER, vec![seal(&Marker::current()).0.into()]).await?;
                self.get(MARKER, MAX_MARKER_BYTES).await?
            }
            Err(StoreError::NotFound { .. }) => return Err(OpenError::Absent { url: url() }),
            Err(error) => return Err(error.into()),
        };
        let (marker, _): (Marker, _) =
            unseal(&bytes, MAX_MARKER_BYTES).map_err(|source| OpenError::Marker { url: url(), source })?;
        if marker.format != Marker::current().format {
            return Err(OpenError::Foreign { url: url(), found: marker.format });
        }
        if marker.version > FORMAT_VERSION {
            return Err(OpenError::Newer { url: url(), found: marker.version });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_stores_are_taken() {
        for text in ["file:///tmp/x", "s3://bucket/prefix", "gs://b", "az://c/d", "memory:///"] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        for text in ["/tmp/x", "ftp://x", "file://host/x", "", "s3:"] {
            let parsed = text.parse::<StoreUrl>();
            assert!(parsed.is_err() || text == "s3:", "{text:?} was taken for a store: {parsed:?}");
        }
        for text in ["file:///tmp/a#b", "file:///tmp/a?b", "s3://bucket/p?versionId=7", "memory:///#"] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains("%3F or %23"), "{error}");
        }
    }

    #[test]
    fn every_cloud_store_takes_the_deadlines() {
        for text in ["s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix"] {
            let settings = [("azure_storage_account_name", "a"), ("azure_skip_signature", "true")];
            let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let store = connect(&text.parse().unwrap(), OpenMode::Existing, settings.clone());
            assert!(store.is_ok(), "{text}: {:?}", store.err());
            // A setting of the user's own comes after ours, and one that is no duration is an error of the setup.
            let own = [("TIMEOUT".to_owned(), "soon".to_owned())];
            let refused = connect(&text.parse().unwrap(), OpenMode::Existing, settings.into_iter().chain(own));
            assert!(matches!(refused, Err(OpenError::Setup { .. })), "{text}");
        }
    }

    #[test]
    fn any_folder_has_a_url_that_leads_back_to_it() {
        for path in ["/tmp/x", "/tmp/a#b?c", "/tmp/%41", "/tmp/a b/ü", "/"] {
            let url = StoreUrl::of_folder(Path::new(path)).unwrap();
            let parsed: StoreUrl = url.to_string().parse().unwrap();
            assert_eq!(parsed.0.to_file_path().unwrap(), Path::new(path));
        }
        assert!(StoreUrl::of_folder(Path::new("x")).is_err());
    }
}
