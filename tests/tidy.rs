//! The style of this workspace, as a test: sizes, names, directions between crates, forgotten files.
//!
//! Every rule's numbers and lists stand here; how violations are found is in the folder of the same name. Must never
//! stop at the first violation: all are printed at once.

#![allow(clippy::unwrap_used, reason = "a test's panic is its failure")]

#[path = "tidy/code.rs"]
mod code;
#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/reach.rs"]
mod reach;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/tree.rs"]
mod tree;

use std::path::Path;

/// Lines of a file that is not only tests. Longer ones are read by nobody in one sitting.
const FILE_LINES: usize = 400;
/// Lines of a function, from its name to its closing brace: what fits on a screen.
const FUNCTION_LINES: usize = 70;
/// Characters of a line of Rust; rustfmt can't break strings and comments.
const LINE_CHARS: usize = 120;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "common", "helpers", "misc", "manager"];

/// What may lie in the root, besides dot-files.
const TOP_LEVEL: &[&str] =
    &["server", "client", "formats", "tests", "benches", "README.md", "Cargo.toml", "Cargo.lock"];

/// Files that may have `unsafe` blocks, each block with its `SAFETY:`.
///
/// - `copy.rs`: stores that go past the caches are intrinsics; they double the speed of copies that nobody reads soon.
/// - `disk.rs`: Linux takes room for a file, and starts to write pages back, by calls of the C library.
/// - `leased.rs`: files of the store are mapped while a lease keeps writers out.
/// - `mark.rs`: what somebody else may write to is read once only by volatile reads.
/// - `sink.rs`: threads fill parts of a caller's buffer at once.
/// - `maps.rs`: files of the store are mapped to be sent.
/// - `dlpack.rs`, `memory.rs`: memory of Python's objects comes and goes as addresses.
/// - `released.rs`: a stack that a fork never finds locked is made of pointers.
const UNSAFE_FILES: &[&str] = &[
    "client/python/src/dlpack.rs",
    "client/python/src/memory.rs",
    "client/python/src/released.rs",
    "client/src/transfer/copy.rs",
    "client/src/transfer/huge.rs",
    "client/src/transfer/leased.rs",
    "client/src/transfer/mark.rs",
    "client/src/transfer/sink.rs",
    "server/engine/src/store/disk.rs",
    "server/src/maps.rs",
];

/// Where the object store's own crate may be named: everything else goes through the engine's store module. Benches put
/// limits around a store, and measure one that is used without us.
const OBJECT_STORE_FOLDERS: &[&str] = &["server/engine/src/store/", "tests/", "benches/figures/stores.rs"];

/// Each crate, the crates of this workspace that it may depend on, and foreign crates that it must not depend on.
const DIRECTIONS: &[(&str, &[&str], &[&str])] = &[
    ("gigastore-formats", &[], &["tokio", "object_store", "rand"]),
    ("gigastore-engine", &["gigastore-formats"], &[]),
    ("gigastore-cache", &["gigastore-formats"], &["object_store"]),
    ("gigastore-client", &["gigastore-formats", "gigastore-engine", "gigastore-cache"], &["object_store"]),
    ("gigastore-ingest", &["gigastore-formats", "gigastore-client", "gigastore-tests"], &["object_store", "tokio"]),
    ("gigastore-server", &["gigastore-formats", "gigastore-engine", "gigastore-cache"], &["object_store"]),
    (
        "gigastore",
        &["gigastore-formats", "gigastore-engine", "gigastore-client", "gigastore-ingest", "gigastore-server"],
        &["object_store"],
    ),
    ("gigastore-python", &["gigastore", "gigastore-formats", "gigastore-client"], &["object_store"]),
    (
        "gigastore-tests",
        &["gigastore-formats", "gigastore-engine", "gigastore-cache", "gigastore-client", "gigastore-server"],
        &[],
    ),
    (
        "gigastore-benches",
        &[
            "gigastore-formats",
            "gigastore-engine",
            "gigastore-client",
            "gigastore-ingest",
            "gigastore-server",
            "gigastore-tests",
        ],
        &[],
    ),
    ("gigastore-fuzz", &["gigastore-tests"], &[]),
    ("gigastore-model", &[], &["tokio", "object_store"]),
    ("xtask", &[], &[]),
];

#[test]
fn the_workspace_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = tree::files(&root).unwrap();
    assert!(files.iter().any(|file| file.path == "tests/tidy.rs"), "the walk found nothing below {}", root.display());
    let mut violations = tree::strangers(&root, TOP_LEVEL).unwrap();
    for file in &files {
        violations.extend(text::violations(file));
    }
    violations.extend(crates::violations(&files, DIRECTIONS));
    violations.extend(reach::violations(&files));
    violations.sort();
    assert!(violations.is_empty(), "{} violations:\n{}\n", violations.len(), violations.join("\n"));
}
