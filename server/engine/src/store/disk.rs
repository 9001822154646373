//! What a disk is told beside what is written: how long a file will be, and when to begin.
//!
//! Must never fail: where the system does not know a call, or can't do it, all that is lost is time.

#![allow(unsafe_code, reason = "calls of Linux by way of libc; one of them no safe crate has")]

use std::fs::File;

/// Bytes of a file from which on its room is taken at once: 4 MiB. To look for some with each write costs more then.
#[cfg(target_os = "linux")]
const LONG_BYTES: u64 = 4 << 20;

/// Takes room for a new file of `len` bytes, if that is much: from then on it has them, all of zeros. Where there is
/// none, or the file system does not do this or is wrong about it, the writes take it, or say why not.
#[cfg(target_os = "linux")]
pub(super) fn reserve(file: &File, len: u64) {
    use std::os::fd::AsRawFd;
    let Some(len) = i64::try_from(len).ok().filter(|_| len >= LONG_BYTES) else { return };
    // SAFETY: the call takes a descriptor, which `file` keeps open, and numbers; it touches no memory of this process.
    unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) };
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
pub(super) fn reserve(_: &File, _: u64) {}

/// Elsewhere the system begins when it likes.
#[cfg(not(target_os = "linux"))]
pub(super) fn write_back(_: &File, _: u64, _: u64) {}
