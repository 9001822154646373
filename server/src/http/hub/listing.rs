//! What is in a repository: its folders and files, a page at a time.
//!
//! Must never make more entries than a page has, however deep folders lie.

use gigastore_formats::wire::FileInfo;
use serde::{Serialize, Serializer};

use super::{Revision, oid};

/// Entries of a page: 1,000, as on the public hub.
pub(super) const PAGE_ENTRIES: usize = 1000;

/// Memory of an entry of the longest path: 1,024 bytes, twice that in JSON where all of it is quotes, and some 400 of
/// the rest.
pub(super) const ENTRY_BYTES: u64 = 2500;

/// What is in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry<'f> {
    /// A file.
    File(&'f FileInfo),
    /// A folder, by its path, which ends in `/`.
    Folder(&'f str),
}

impl<'f> Entry<'f> {
    /// Finds what a path is among files, sorted by path.
    pub(super) fn find(files: &'f [FileInfo], path: &str) -> Option<Self> {
        let at = files.partition_point(|file| file.path.as_str() < path);
        if let Some(file) = files.get(at).filter(|file| file.path == path) {
            return Some(Self::File(file));
        }
        let below = format!("{path}/");
        let at = files.partition_point(|file| file.path < below);
        let file = files.get(at).filter(|file| file.path.starts_with(&below))?;
        Some(Self::Folder(&file.path[..below.len()]))
    }

    /// Returns what entries are sorted by.
    fn key(self) -> &'f str {
        match self {
            Self::File(file) => &file.path,
            Self::Folder(path) => path,
        }
    }
}

/// Entries of a folder, and whether more follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page<'f> {
    pub(super) entries: Vec<Entry<'f>>,
    /// What is asked for `after` to get the next page.
    pub(super) next: Option<&'f str>,
}

impl<'f> Page<'f> {
    /// Lists what is in the folder `below` (empty, or with a `/` at its end) among files, sorted by path; all that is
    /// below it where `recursive`. At most `most` entries that come after `after`. `None` without such a folder.
    pub(super) fn new(files: &'f [FileInfo], below: &str, recursive: bool, after: &str, most: usize) -> Option<Self> {
        let start = files.partition_point(|file| file.path.as_str() < below);
        let len = files[start..].partition_point(|file| file.path.starts_with(below));
        let files = &files[start..start + len];
        if files.is_empty() && !below.is_empty() {
            return None;
        }
        let mut entries: Vec<Entry<'f>> = Vec::new();
        let mut at = files.partition_point(|file| file.path.as_str() <= after);
        while let Some(file) = files.get(at) {
            let path = file.path.as_str();
            // What the file before lies in as well has been listed.
            let before = at.checked_sub(1).map_or("", |before| &files[before].path);
            let known = path.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
            let borders = path[below.len()..].match_indices('/').map(|(border, _)| below.len() + border + 1);
            let folders = borders.take(if recursive { usize::MAX } else { 1 });
            let folders = folders.filter(|end| *end > known).map(|end| &path[..end]).filter(|folder| *folder > after);
            let inside = path[below.len()..].find('/').map(|border| &path[..below.len() + border + 1]);
            let own = (recursive || inside.is_none()).then_some(Entry::File(file));
            for entry in folders.map(Entry::Folder).chain(own) {
                if entries.len() == most {
                    let next = entries.last().map(|last| last.key());
                    return Some(Self { entries, next });
                }
                entries.push(entry);
            }
            at += match inside.filter(|_| !recursive) {
                Some(folder) => files[at..].partition_point(|file| file.path.starts_with(folder)),
                None => 1,
            };
        }
        Some(Self { entries, next: None })
    }
}

/// What is said of an entry.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said<'r> {
    r#type: &'static str,
    oid: String,
    size: u64,
    path: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_commit: Option<LastCommit<'r>>,
}

/// A commit, as it is said of an entry: versions do not change, so that it is the one of all.
#[derive(Serialize)]
struct LastCommit<'r> {
    id: &'r str,
    title: String,
    date: String,
}

impl Revision {
    /// Returns what is said of an entry, with the commit where `expand`.
    pub(super) fn say<'r>(&'r self, entry: Entry<'r>, expand: bool) -> Said<'r> {
        let last_commit = expand.then(|| LastCommit { id: &self.sha, title: self.title(), date: self.date() });
        match entry {
            Entry::File(file) => {
                Said { r#type: "file", oid: oid(&file.tag), size: file.bytes, path: &file.path, last_commit }
            }
            Entry::Folder(path) => {
                let path = path.trim_end_matches('/');
                Said { r#type: "directory", oid: self.oid_of_folder(path), size: 0, path, last_commit }
            }
        }
    }
}

/// The files of a repository, as they are said of the whole.
pub(super) struct Siblings<'f> {
    pub(super) files: &'f [FileInfo],
    /// Whether lengths and names of contents are said, too.
    pub(super) blobs: bool,
}

/// Memory of a sibling beside its path: its words, and an object id.
const SIBLING_BYTES: u64 = 160;

impl Siblings<'_> {
    /// Returns the memory that they take as they are written.
    pub(super) fn memory(&self) -> u64 {
        self.files.iter().map(|file| file.path.len() as u64 + SIBLING_BYTES).sum()
    }
}

impl Serialize for Siblings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Sibling<'f> {
            rfilename: &'f str,
            #[serde(skip_serializing_if = "Option::is_none")]
            size: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            blob_id: Option<String>,
        }
        serializer.collect_seq(self.files.iter().map(|file| Sibling {
            rfilename: &file.path,
            size: self.blobs.then_some(file.bytes),
            blob_id: self.blobs.then(|| oid(&file.tag)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gigastore_formats::digest::Digest;

    use super::*;

    fn files(paths: &[&str]) -> Vec<FileInfo> {
        let sorted: BTreeSet<&str> = paths.iter().copied().collect();
        let info = |path: &str| FileInfo { path: path.to_owned(), bytes: 1, tag: Digest::of(b""), blake3: None };
        sorted.into_iter().map(info).collect()
    }

    fn listed(files: &[FileInfo], below: &str, recursive: bool, most: usize) -> Option<Vec<String>> {
        let (mut all, mut after) = (Vec::new(), "");
        loop {
            let page = Page::new(files, below, recursive, after, most)?;
            assert!(page.entries.len() <= most && (page.next.is_none() || page.entries.len() == most));
            all.extend(page.entries.iter().map(|entry| entry.key().to_owned()));
            match page.next {
                Some(next) => after = next,
                None => return Some(all),
            }
        }
    }

    #[test]
    fn pages_of_any_length_list_each_entry_once() {
        let deep = "d/".repeat(300) + "x";
        let files = files(&["a", "b-c", "b/c/1", "b/c/2", "b/c.d", "b/e", "b0", "f/g/h/i", &deep]);
        let mut all = BTreeSet::new();
        for path in files.iter().map(|file| file.path.as_str()) {
            all.insert(path);
            all.extend(path.match_indices('/').map(|(at, _)| &path[..=at]));
        }
        let all: Vec<&str> = all.into_iter().collect();
        for most in [1, 2, 3, 7, 1000] {
            assert_eq!(listed(&files, "", true, most).unwrap(), all, "{most}");
            assert_eq!(listed(&files, "", false, most).unwrap(), ["a", "b-c", "b/", "b0", "d/", "f/"], "{most}");
            assert_eq!(listed(&files, "b/", false, most).unwrap(), ["b/c.d", "b/c/", "b/e"], "{most}");
            let below = ["b/c.d", "b/c/", "b/c/1", "b/c/2", "b/e"];
            assert_eq!(listed(&files, "b/", true, most).unwrap(), below, "{most}");
            assert_eq!(listed(&files, "b/c/", true, most).unwrap(), ["b/c/1", "b/c/2"], "{most}");
        }
        for nothing in ["a/", "g/", "b/c/1/"] {
            assert_eq!(listed(&files, nothing, true, 10), None, "{nothing}");
        }
        assert_eq!(listed(&[], "", true, 10), Some(Vec::new()));
    }
}
