//! What this machine can do: the least work that moves the same bytes, as the measure of what Gigastore makes of it.
//!
//! A bench runs a limit and the product in turn, in one process, and reports their ratio; absolute figures of shared
//! machines are noise. Must never be tuned to the product: a limit does only what its first line says.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

/// Bytes of one system call: 8 MiB, above which neither reads nor writes get faster on common disks.
pub const PIECE_BYTES: usize = 8 << 20;

/// Writes each part to a file of its own in pieces of 8 MiB and makes it durable (fsync), two files at a time.
pub fn durable_writes(folder: &Path, parts: &[&[u8]]) -> io::Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = (0..parts.len()).map(|i| folder.join(format!("limit-{i}"))).collect();
    let work: Vec<(&PathBuf, &[u8])> = paths.iter().zip(parts.iter().copied()).collect();
    on_two_threads(&work, |(path, part)| {
        let file = File::create(path)?;
        for (i, piece) in part.chunks(PIECE_BYTES).enumerate() {
            file.write_all_at(piece, (i * PIECE_BYTES) as u64)?;
        }
        file.sync_all()
    })?;
    Ok(paths)
}

/// Reads each file in pieces of 8 MiB into a buffer that is kept, and hashes each piece with BLAKE3, on two threads.
pub fn hashed_reads(paths: &[PathBuf]) -> io::Result<()> {
    on_two_threads(paths, |path| {
        let file = OpenOptions::new().read(true).open(path)?;
        let (mut buffer, mut at, len) = (vec![0; PIECE_BYTES], 0, file.metadata()?.len());
        while at < len {
            let piece = &mut buffer[..PIECE_BYTES.min((len - at) as usize)];
            file.read_exact_at(piece, at)?;
            std::hint::black_box(blake3::hash(piece));
            at += piece.len() as u64;
        }
        Ok(())
    })
}

fn on_two_threads<T: Sync>(work: &[T], each: impl Fn(&T) -> io::Result<()> + Sync) -> io::Result<()> {
    let (first, second) = work.split_at(work.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().try_for_each(&each));
        first.iter().try_for_each(&each)?;
        other.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the limit panicked")))
    })
}
