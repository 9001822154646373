//! What a disk is told beside what is written: how long a file will be, and when to begin.
//!
//! Must never fail where the system does not know a call: all that is lost then is time.

#![allow(unsafe_code, reason = "no safe crate that is here has these two calls of Linux")]

use std::fs::File;
use std::io::{self, ErrorKind};

/// Bytes of a file from which on its room is taken at once: 8 MiB. To look for some with each write costs more then.
#[cfg(target_os = "linux")]
const LONG_BYTES: u64 = 8 << 20;

/// Takes room for a new file of `len` bytes, if that is much: it has them from then on, all of zeros. Fails where there
/// is none; where it can't be taken for another reason, the writes take it, or say why not.
#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let Some(len) = i64::try_from(len).ok().filter(|_| len >= LONG_BYTES) else { return Ok(()) };
    // SAFETY: the call takes a descriptor, which `file` keeps open, and numbers; it touches no memory of this process.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Err(error),
        _ => Ok(()),
    }
}

/// Has the disk begin to write pages; waits only for a place in its queue. What goes wrong there, the sync at the end
/// says.
#[cfg(target_os = "linux")]
pub(super) fn write_back(file: &File, start: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(start), Ok(len)) = (i64::try_from(start), i64::try_from(len)) else { return };
    // SAFETY: as above.
    unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Elsewhere the writes take their room one by one.
#[cfg(not(target_os = "linux"))]
pub(super) fn reserve(_: &File, _: u64) -> io::Result<()> {
    Ok(())
}

/// Elsewhere the system begins when it likes.
#[cfg(not(target_os = "linux"))]
pub(super) fn write_back(_: &File, _: u64, _: u64) {}
