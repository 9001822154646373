//! The token file: who may do what in which project. Secrets are kept as hashes only.
//!
//! `gst_<id>_<secret>`: the id finds the entry, the secret (256 random bits) is compared by its BLAKE3 in constant
//! time. Must never write or print a secret after it was made.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use gigastore_formats::digest::{Digest, hex};
use gigastore_formats::name::ProjectName;
use serde::{Deserialize, Serialize};

use crate::auth::Access;

/// What every token starts with, so that leaked ones can be searched for.
const PREFIX: &str = "gst";

/// Bytes of a token file: some 100,000 tokens.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// All tokens of a service.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// The tokens.
    pub tokens: Vec<Token>,
}

/// A token, without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Finds the entry; not secret.
    pub id: String,
    /// For people: whose it is.
    pub name: String,
    /// BLAKE3 of the secret.
    pub hash: Digest,
    /// Milliseconds since 1970 after which it is no longer taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// What a token may do in a project.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The project; `None`, written `*`, for all.
    #[serde(with = "any_project")]
    pub project: Option<ProjectName>,
    /// How much.
    pub access: Access,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Admin => "admin",
        };
        match &self.project {
            Some(project) => write!(f, "{project}:{access}"),
            None => write!(f, "*:{access}"),
        }
    }
}

mod any_project {
    use gigastore_formats::name::ProjectName;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(project: &Option<ProjectName>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&project.as_ref().map_or("*", |project| project.as_str()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ProjectName>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "*" => Ok(None),
            name => name.parse().map(Some).map_err(serde::de::Error::custom),
        }
    }
}

/// Why the token file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system refused.
    #[error("token file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not one.
    #[error("token file {path} can't be read: {source}; make one with `gigastore token create`")]
    Json {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file is too long.
    #[error("token file {path} has {actual} bytes, over the limit of {MAX_FILE_BYTES}")]
    TooLong {
        /// The file.
        path: String,
        /// Its bytes.
        actual: u64,
    },
    /// There is no such token.
    #[error("token file {path} has no token {id:?}; `gigastore token ls` lists them")]
    Unknown {
        /// The file.
        path: String,
        /// What was asked for.
        id: String,
    },
}

impl Token {
    /// Makes a token from random bytes; returns it and the text that its owner keeps.
    pub fn new(name: String, scopes: Vec<Scope>, expires_ms: Option<u64>, random: [u8; 32], id: u32) -> (Self, String) {
        let (id, secret) = (hex(&id.to_be_bytes()), hex(&random));
        let text = format!("{PREFIX}_{id}_{secret}");
        let hash = Digest::of(secret.as_bytes());
        (Self { id, name, hash, expires_ms, scopes }, text)
    }

    /// Returns what it may do in `project`.
    pub fn access(&self, project: &ProjectName) -> Option<Access> {
        let covers = |scope: &&Scope| scope.project.as_ref().is_none_or(|one| one == project);
        self.scopes.iter().filter(covers).map(|scope| scope.access).max()
    }
}

impl TokenFile {
    /// Reads a token file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let named = || path.display().to_string();
        let failed = |source| TokenError::Io { path: named(), source };
        let actual = std::fs::metadata(path).map_err(failed)?.len();
        if actual > MAX_FILE_BYTES {
            return Err(TokenError::TooLong { path: named(), actual });
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|source| TokenError::Json { path: named(), source })
    }

    /// Reads a token file; one that is not there has no tokens.
    pub fn read_or_new(path: &Path) -> Result<Self, TokenError> {
        match Self::read(path) {
            Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => read,
        }
    }

    /// Changes the file at `path`, which is made where it is not there. Changes of several processes come one after the
    /// other.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let failed = |source| TokenError::Io { path: path.display().to_string(), source };
        // The file itself is replaced at each change, so that its lock would be one on a file that is gone.
        let lock = path.with_extension("lock");
        let mut open = OpenOptions::new();
        let lock = open.write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(failed)?;
        if let Ok(before) = std::fs::metadata(path) {
            // Made by an administrator, it would keep the owner of the tokens from changing them.
            owned_like(&lock, &before).map_err(failed)?;
        }
        lock.lock().map_err(failed)?;
        let mut file = Self::read_or_new(path)?;
        let changed = change(&mut file)?;
        file.write(path)?;
        Ok(changed)
    }

    /// Draws ids until one is free.
    pub fn free_id(&self, mut draw: impl FnMut() -> u32) -> u32 {
        loop {
            let id = draw();
            let text = hex(&id.to_be_bytes());
            if self.tokens.iter().all(|token| token.id != text) {
                return id;
            }
        }
    }

    /// Writes the file, for its owner's eyes only, and replaces the older one in one step. The new one has the owner
    /// and the mode of the one it replaces: a service must be able to read what an administrator has changed.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let failed = |source| TokenError::Io { path: path.display().to_string(), source };
        let staging = path.with_extension(format!("new-{}", std::process::id()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staging)?;
            match std::fs::metadata(path) {
                Ok(before) => {
                    let own = owned_like(&file, &before)?;
                    // Bits of a group that could not be kept would let another group read it.
                    let kept = if own { 0o777 } else { 0o700 };
                    file.set_permissions(Permissions::from_mode(before.mode() & kept))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
            text.push('\n');
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&staging, path)
        };
        write().map_err(|error| {
            // The error of the write is the one to report; what is left has no secrets in it.
            let _ = std::fs::remove_file(&staging);
            failed(error)
        })
    }

    /// Takes a token away.
    pub fn revoke(&mut self, id: &str, path: &Path) -> Result<Token, TokenError> {
        let unknown = || TokenError::Unknown { path: path.display().to_string(), id: id.to_owned() };
        let at = self.tokens.iter().position(|token| token.id == id).ok_or_else(unknown)?;
        Ok(self.tokens.remove(at))
    }

    /// Finds the token that `text` is; `None` where there is none or the secret is another.
    pub fn find(&self, text: &str) -> Option<&Token> {
        let mut parts = text.splitn(3, '_');
        let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let given = blake3::hash(secret.as_bytes());
        // The id is no secret; the secret's hash is compared in constant time (`blake3::Hash` does).
        let same = |token: &&Token| blake3::Hash::from_bytes(*token.hash.as_bytes()) == given;
        let found = self.tokens.iter().find(|token| token.id == id).filter(same);
        found.filter(|_| prefix == PREFIX)
    }
}

/// Gives a file the owner and group that another has; tells whether the group is the same. Only the administrator may
/// give files away, which is needed where the owner is another.
fn owned_like(file: &File, other: &Metadata) -> io::Result<bool> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) == (other.uid(), other.gid()) {
        return Ok(true);
    }
    match fchown(file, Some(other.uid()), Some(other.gid())) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && now.uid() == other.uid() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_keeps_its_owner_and_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        TokenFile::change(&path, |_| Ok(())).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.with_extension("lock"))), (0o600, 0o600));
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        // Who is not the administrator can't give files away, and keeps their own.
        let given = std::os::unix::fs::chown(&path, Some(7443), Some(7444)).is_ok();
        let before = std::fs::metadata(&path).unwrap();
        assert!(!given || (before.uid(), before.gid()) == (7443, 7444));
        TokenFile::change(&path, |_| Ok(())).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_ne!(after.ino(), before.ino(), "it was not replaced");
        assert_eq!((after.uid(), after.gid(), mode(&path)), (before.uid(), before.gid(), 0o640));
        let lock = std::fs::metadata(path.with_extension("lock")).unwrap();
        assert_eq!(lock.uid(), before.uid());
    }

    #[test]
    fn a_token_is_found_by_its_text_and_kept_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let scopes = vec![Scope { project: Some("demo".parse().unwrap()), access: Access::Write }];
        let (token, text) = Token::new("ci".to_owned(), scopes, None, [7; 32], 0x0102_0304);
        let mut file = TokenFile::read_or_new(&path).unwrap();
        file.tokens.push(token.clone());
        file.write(&path).unwrap();
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(!stored.contains(text.rsplit('_').next().unwrap()), "the secret is in the file");
        let read = TokenFile::read(&path).unwrap();
        assert_eq!(read.find(&text), Some(&token));
        for wrong in [&text[..text.len() - 1], &text[1..], &text.replace("01020304", "01020305"), "", "gst__", "_"] {
            assert_eq!(read.find(wrong), None, "{wrong}");
        }
        assert_eq!(token.access(&"demo".parse().unwrap()), Some(Access::Write));
        assert_eq!(token.access(&"other".parse().unwrap()), None);
        file.revoke("01020304", &path).unwrap();
        assert!(matches!(file.revoke("01020304", &path), Err(TokenError::Unknown { .. })));
    }
}
