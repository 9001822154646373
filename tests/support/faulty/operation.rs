//! Operations on a store, verdicts on them, and the errors that a store can be made to answer.
//!
//! Must never act: it only names.

use std::fmt;
use std::io;
use std::ops::Range;

use object_store::Error;

/// The kinds of operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// An object is written whole, over any other.
    Put,
    /// An object is written whole if there is none.
    Create,
    /// A multipart upload begins.
    MultipartStart,
    /// One part is sent.
    Part,
    /// A multipart upload becomes an object.
    Complete,
    /// A multipart upload is given up.
    Abort,
    /// An object or a range of it is read.
    Get,
    /// Only the length of an object is asked for.
    Head,
    /// One object is deleted.
    Delete,
    /// Objects are listed; the path is the prefix.
    List,
    /// An object is copied over any other; the path is the target's.
    Copy,
    /// An object is copied if there is none; the path is the target's.
    CopyCreate,
}

/// One operation, as a plan sees it and as the log keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Its number, from 1, in the order of asking.
    pub n: u64,
    /// Its kind.
    pub op: Op,
    /// The object, or the prefix of a listing.
    pub path: String,
    /// Bytes sent, or for a read the bytes answered (0 as long as it is not answered, so for a plan).
    pub bytes: u64,
    /// The range a read was answered with; `None` for all else, and for a plan.
    pub range: Option<Range<u64>>,
    /// What the plan said (`Pass` while it is being asked).
    pub verdict: Verdict,
}

/// What happens to an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is done.
    Pass,
    /// It is not done, and the answer is an error.
    FailBefore(Failure),
    /// It is done, yet the answer is an error: a lost reply. A listing gives its items, then the error.
    FailAfter(Failure),
    /// A read's body ends after this many bytes, as if complete. Other operations pass.
    Truncate(u64),
    /// A read's body has the lowest bit of this byte flipped. Other operations pass.
    Flip(u64),
    /// The process is killed instead (SIGKILL: nothing of it runs any more).
    Kill,
    /// It is done, and then the process is killed.
    KillAfter,
}

/// The errors a store can be made to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A server error whose cause is unknown.
    Unavailable,
    /// "Already exists". Before: S3's 409, though nothing landed. After: our own success reported as another's.
    AlreadyExists,
    /// "Not found".
    NotFound,
    /// The credentials do not suffice, as cloud stores say it.
    PermissionDenied,
    /// An error of the operating system, below another error as the local store wraps it.
    Io(io::ErrorKind),
}

impl Failure {
    /// No space left on the device.
    pub const STORAGE_FULL: Self = Self::Io(io::ErrorKind::StorageFull);
    /// The file system is mounted read-only.
    pub const READ_ONLY: Self = Self::Io(io::ErrorKind::ReadOnlyFilesystem);
    /// A folder or file that this user may not touch.
    pub const LOCAL_PERMISSION_DENIED: Self = Self::Io(io::ErrorKind::PermissionDenied);
    /// No answer in time.
    pub const TIMED_OUT: Self = Self::Io(io::ErrorKind::TimedOut);

    /// Returns the error that the caller of an operation on `path` sees.
    pub(super) fn error(self, path: &str) -> Error {
        let path = path.to_owned();
        let source = Box::new(Injected::new(self));
        match self {
            Self::Unavailable | Self::Io(_) => Error::Generic { store: "FaultyStore", source },
            Self::AlreadyExists => Error::AlreadyExists { path, source },
            Self::NotFound => Error::NotFound { path, source },
            Self::PermissionDenied => Error::PermissionDenied { path, source },
        }
    }
}

/// The source of every error made here, so that it is never taken for a real one.
#[derive(Debug)]
struct Injected {
    failure: Failure,
    cause: Option<io::Error>,
}

impl Injected {
    fn new(failure: Failure) -> Self {
        let cause = match failure {
            Failure::Io(kind) => Some(kind.into()),
            _ => None,
        };
        Self { failure, cause }
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injected fault {:?}", self.failure)
    }
}

impl std::error::Error for Injected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}
