//! The files of the workspace.
//!
//! Must never enter what git does not keep: build output, caches, virtual environments.

use std::fs;
use std::io;
use std::path::Path;

/// Folders that are made, not written.
const MADE: &[&str] = &["target", "__pycache__", "node_modules"];
/// Folders with a dot that hold written files.
const WRITTEN: &[&str] = &[".ci", ".cargo", ".github"];
/// Kinds of files that are looked at.
const KINDS: &[&str] = &["rs", "toml", "md", "py", "pyi"];

/// One file, its path below the root with `/` between the names.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// Returns what follows the last dot of the name.
    pub(crate) fn kind(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, kind)| kind)
    }

    /// Tells whether the file holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let shared = self.path.starts_with("tests/support/") || self.path.starts_with("tests/xtask/");
        name.ends_with("_test.rs") || name == "tests.rs" || (self.path.starts_with("tests/") && !shared)
    }
}

/// Returns all files that are looked at, in order of path.
pub(crate) fn files(root: &Path) -> io::Result<Vec<File>> {
    let mut found = Vec::new();
    walk(root, "", &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(folder: &Path, below: &str, found: &mut Vec<File>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let written = !name.starts_with('.') || WRITTEN.contains(&name.as_str());
            if written && !MADE.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), found)?;
            }
        } else if kind.is_file() && name.rsplit_once('.').is_some_and(|(_, kind)| KINDS.contains(&kind)) {
            found.push(File { path, text: fs::read_to_string(entry.path())? });
        }
    }
    Ok(())
}

/// Returns what lies in the root and is not among the allowed.
pub(crate) fn strangers(root: &Path, allowed: &[&str]) -> io::Result<Vec<String>> {
    let mut violations = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && name != "target" && !allowed.contains(&name.as_str()) {
            violations.push(format!("{name}: the root has only {allowed:?} and dot-files; move it into one of them"));
        }
    }
    Ok(violations)
}
