//! Every parser of bytes that somebody else made, as functions of any bytes at all, for fuzzing.
//!
//! Each tells whether the bytes were taken, and panics where a parser breaks a promise: that what it takes it can write
//! again, that what it returns lies within the object. Digests are made for the bytes, so that what stands behind them
//! is reached. Must never answer the same bytes in two ways.

mod http;
mod mutate;
mod parsers;

use std::fs;
use std::io;
use std::path::Path;

pub use http::answers;
pub use mutate::mutated;

/// One parser, or some that take the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of its seeds' folder below `tests/fuzz/seeds`, and of its program.
    pub name: &'static str,
    /// Gives it bytes; tells whether it took them.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target { name: "pack_header", run: parsers::pack_header },
    Target { name: "pack_frames", run: parsers::pack_frames },
    Target { name: "safetensors", run: parsers::safetensors },
    Target { name: "manifests", run: parsers::manifests },
    Target { name: "token_pages", run: parsers::token_pages },
    Target { name: "records", run: parsers::records },
    Target { name: "cursors", run: parsers::cursors },
    Target { name: "names", run: parsers::names },
    Target { name: "http", run: answers },
];

/// Returns a target by its name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Reads the seeds of a target, in order of their names: bytes that it takes, and some that once broke it.
pub fn seeds(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}
