//! Who asks, and what they may: bearer tokens from a file that is read again when it changes.
//!
//! Must never say whether a project, run or object exists to a token without a scope on its project.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use gigastore_formats::ambient::Ambient;
use gigastore_formats::name::ProjectName;
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};

use crate::tokens::{Token, TokenError, TokenFile};

/// Pause between two looks at the token file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What may be done in a project; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read, list, verify, watch.
    Read,
    /// Save, push, tag.
    Write,
    /// All of it, and what is to come of dropping and collecting.
    Admin,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Nobody in particular: the service has no token file, and listens to this machine only.
    Anyone,
    /// The owner of a token.
    Token(Arc<Token>),
}

impl Caller {
    /// Returns what the caller may do in `project`.
    pub(crate) fn access(&self, project: &ProjectName) -> Option<Access> {
        match self {
            Self::Anyone => Some(Access::Admin),
            Self::Token(token) => token.access(project),
        }
    }

    /// Returns what names the caller in logs.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Anyone => "-",
            Self::Token(token) => &token.id,
        }
    }
}

/// Why a request has no caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("this service needs a token: send `Authorization: Bearer …` (gigastore: set GIGASTORE_TOKEN)")]
    Missing,
    #[error("this token is not known: it was mistyped or revoked; ask for another")]
    Unknown,
    #[error("this token has expired: ask for another")]
    Expired,
}

/// Checks tokens.
#[derive(Debug)]
pub(crate) struct Gate {
    ambient: Arc<dyn Ambient>,
    path: Option<PathBuf>,
    file: RwLock<(Option<SystemTime>, TokenFile)>,
    /// Times that a changed token file could not be read.
    pub(crate) failures: Counter,
}

impl Gate {
    /// Reads the token file; `None` lets everyone in.
    pub(crate) fn new(ambient: Arc<dyn Ambient>, path: Option<PathBuf>) -> Result<Self, TokenError> {
        let file = match &path {
            Some(path) => (changed_at(path), TokenFile::read(path)?),
            None => (None, TokenFile::default()),
        };
        Ok(Self { ambient, path, file: RwLock::new(file), failures: Counter::default() })
    }

    /// Finds who sent `authorization`.
    pub(crate) fn caller(&self, authorization: Option<&str>) -> Result<Caller, AuthError> {
        if self.path.is_none() {
            return Ok(Caller::Anyone);
        }
        let header = authorization.ok_or(AuthError::Missing)?;
        let (scheme, text) = header.split_once(' ').ok_or(AuthError::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Missing);
        }
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        let token = file.1.find(text.trim()).ok_or(AuthError::Unknown)?;
        if token.expires_ms.is_some_and(|end| end <= self.ambient.wall_ms()) {
            return Err(AuthError::Expired);
        }
        Ok(Caller::Token(Arc::new(token.clone())))
    }

    /// Reads the token file again whenever it changes, for as long as the service runs.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(path) = self.path.clone() else { return };
        let mut said = None;
        loop {
            self.ambient.sleep(LOOK_EVERY).await;
            let changed = changed_at(&path);
            if changed == self.file.read().unwrap_or_else(PoisonError::into_inner).0 {
                said = None;
                continue;
            }
            match TokenFile::read(&path) {
                Ok(file) => {
                    tracing::info!(tokens = file.tokens.len(), "token file read again");
                    *self.file.write().unwrap_or_else(PoisonError::into_inner) = (changed, file);
                    said = None;
                }
                // The tokens known so far stay good: half an edit must not lock everyone out, nor let anyone in.
                Err(error) => {
                    self.failures.inc();
                    let text = error.to_string();
                    if said.as_ref() != Some(&text) {
                        tracing::error!(error = text, "the token file changed and can't be read; the older one stands");
                    }
                    // What the system refuses now it may allow later, with the file as it is: it is tried again, since
                    // a revoked token is taken meanwhile. What is no token file stays none until it changes.
                    if !matches!(error, TokenError::Io { .. }) {
                        self.file.write().unwrap_or_else(PoisonError::into_inner).0 = changed;
                    }
                    said = Some(text);
                }
            }
        }
    }
}

fn changed_at(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
