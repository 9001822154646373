//! Paths, folders, globs and `-` become inputs: in the order they were named, files of a folder or glob sorted.
//!
//! Must never pass over something that was named; what lies in a folder and is no corpus is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use globset::{GlobBuilder, GlobMatcher};

use super::{Format, Input, Origin, Reading};

/// What stands for standard input.
const STDIN: &str = "-";

/// The characters that make a name a glob.
const WILDCARDS: &[char] = &['*', '?', '[', '{'];

/// Most inputs of one run: 16 million, of some 400 bytes each in memory, half of them its path, and 200 in the journal.
const MAX_INPUTS: usize = 1 << 24;

/// Inputs that were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The inputs.
    pub inputs: Vec<Input>,
    /// Files of folders that were passed over: their endings are not those of a corpus.
    pub passed_over: u64,
}

/// Why inputs were not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nothing was named.
    #[error("no input: name files, folders, globs, or - for stdin")]
    Nothing,
    /// A path can't be read.
    #[error("{path} can't be read")]
    Io {
        /// The path.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A name with wildcards is no glob.
    #[error("{pattern:?} is not a glob")]
    Glob {
        /// The name.
        pattern: String,
        /// Why.
        #[source]
        source: globset::Error,
    },
    /// A glob or folder has no file in it.
    #[error(
        "{path}: no file to tokenize (of {passed_over} files none ends in .txt, .md, .jsonl, .ndjson, .json or \
             .parquet, with or without .gz or .zst): pass --input-format to read them all"
    )]
    Empty {
        /// The glob or folder.
        path: String,
        /// Files that were passed over.
        passed_over: u64,
    },
    /// The ending of a file's name says nothing.
    #[error("{path}: its ending does not say what is in it: pass --input-format text, jsonl or parquet")]
    Ending {
        /// The file.
        path: String,
    },
    /// What was named is neither a file nor a folder.
    #[error("{path} is neither a file nor a folder: read a pipe as -, from stdin")]
    Kind {
        /// The path.
        path: String,
    },
    /// An input was named twice, or a file under two names.
    #[error("{path} is named twice (before as {first}), and its documents would be in the dataset twice: name it once")]
    Twice {
        /// The path.
        path: String,
        /// The path of the same file that was named before.
        first: String,
    },
    /// There are too many inputs.
    #[error("more than {MAX_INPUTS} inputs: tokenize them in several runs")]
    TooMany,
}

/// Finds the inputs that `named` stands for.
pub fn find(named: &[String], reading: &Reading) -> Result<Found, FindError> {
    let mut found = Found::default();
    for name in named {
        let before = found.clone_counts();
        if name == STDIN {
            let format = reading.format.ok_or_else(|| FindError::Ending { path: "stdin".to_owned() })?;
            found.inputs.push(Input { origin: Origin::Stdin, format });
            continue;
        }
        let path = Path::new(name);
        let many = if path.is_dir() {
            walk(path, &|_| true)?
        } else if !path.exists() && name.contains(WILDCARDS) {
            let pattern = Pattern::new(name)?;
            walk(&pattern.root, &|path| pattern.matches(path))?
        } else {
            let input = input(path, reading)?.ok_or_else(|| FindError::Ending { path: name.clone() })?;
            found.inputs.push(input);
            continue;
        };
        for path in many {
            match input(&path, reading)? {
                Some(input) => found.inputs.push(input),
                None => found.passed_over += 1,
            }
            if found.inputs.len() > MAX_INPUTS {
                return Err(FindError::TooMany);
            }
        }
        if found.inputs.len() == before.0 {
            return Err(FindError::Empty { path: name.clone(), passed_over: found.passed_over - before.1 });
        }
    }
    check_once(&found.inputs)?;
    if found.inputs.is_empty() { Err(FindError::Nothing) } else { Ok(found) }
}

impl Found {
    fn clone_counts(&self) -> (usize, u64) {
        (self.inputs.len(), self.passed_over)
    }
}

/// Checks that no file is there twice, however its path is spelled and whatever links lead to it.
fn check_once(inputs: &[Input]) -> Result<(), FindError> {
    let mut seen = BTreeMap::new();
    for input in inputs {
        let file = match &input.origin {
            Origin::File { path, .. } => {
                Some(path.canonicalize().map_err(|source| FindError::Io { path: path.display().to_string(), source })?)
            }
            Origin::Stdin => None,
        };
        if let Some(first) = seen.insert(file, input) {
            return Err(FindError::Twice { path: input.to_string(), first: first.to_string() });
        }
    }
    Ok(())
}

/// Looks at a file; none where its name does not say what it is.
fn input(path: &Path, reading: &Reading) -> Result<Option<Input>, FindError> {
    let io = |source| FindError::Io { path: path.display().to_string(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        // Opening a pipe would wait for whoever writes to it.
        return Err(FindError::Kind { path: path.display().to_string() });
    }
    let Some(format) = reading.format.or_else(|| format_of(path)) else { return Ok(None) };
    let modified_ns = modified_ns(&metadata);
    Ok(Some(Input { origin: Origin::File { path: path.to_owned(), bytes: metadata.len(), modified_ns }, format }))
}

/// Returns when a file was changed last, in nanoseconds since 1970; 0 where the system does not know.
pub(crate) fn modified_ns(metadata: &std::fs::Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn format_of(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let packed = [".gz", ".gzip", ".zst", ".zstd"];
    let name = packed.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "txt" | "text" | "md" => Some(Format::Text),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// Returns the files below `root` that `wanted` takes, sorted; hidden ones are passed over.
fn walk(root: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<BTreeSet<PathBuf>, FindError> {
    let (mut files, mut folders) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let io = |source| FindError::Io { path: folder.display().to_string(), source };
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            // A link to a folder is not followed, it may be a ring; a link to a file is that file.
            if entry.file_type().map_err(io)?.is_dir() {
                folders.push(path);
            } else if wanted(&path) && path.is_file() {
                files.insert(path);
            }
            if files.len() + folders.len() > MAX_INPUTS {
                return Err(FindError::TooMany);
            }
        }
    }
    Ok(files)
}

/// A glob, and the folder below which all that it matches lies.
struct Pattern {
    root: PathBuf,
    glob: GlobMatcher,
    /// Whether the root was not named.
    bare: bool,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, FindError> {
        let invalid = |source| FindError::Glob { pattern: pattern.to_owned(), source };
        let plain = pattern.strip_prefix("./").unwrap_or(pattern);
        let glob = GlobBuilder::new(plain).literal_separator(true).build().map_err(invalid)?.compile_matcher();
        let wild = plain.find(WILDCARDS).unwrap_or(plain.len());
        let root = plain[..wild].rfind('/').map_or("", |end| &plain[..=end]);
        let bare = root.is_empty();
        Ok(Self { root: PathBuf::from(if bare { "." } else { root }), glob, bare })
    }

    fn matches(&self, path: &Path) -> bool {
        let path = if self.bare { path.strip_prefix(".").unwrap_or(path) } else { path };
        self.glob.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(found: &Found, below: &Path) -> Vec<String> {
        let below = format!("{}/", below.display());
        found.inputs.iter().map(|input| input.to_string().replace(&below, "")).collect()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        fs::create_dir_all(folder.path().join(".git")).unwrap();
        for name in
            ["b/c/2.txt", "b/1.jsonl.gz", "a.parquet", "notes.doc", ".hidden.txt", ".git/x.txt", "b/c/10.TXT.zst"]
        {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        folder
    }

    #[test]
    fn folders_and_globs_are_sorted_and_names_keep_their_order() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let found = find(&[at("")], &Reading::default()).unwrap();
        assert_eq!(names(&found, folder.path()), ["a.parquet", "b/1.jsonl.gz", "b/c/10.TXT.zst", "b/c/2.txt"]);
        assert_eq!(found.passed_over, 1);
        let found = find(&[at("b/*/*.txt"), at("a.parquet"), at("b/*.gz")], &Reading::default()).unwrap();
        assert_eq!(names(&found, folder.path()), ["b/c/2.txt", "a.parquet", "b/1.jsonl.gz"]);
        let found = find(&[at("**/*.{txt,gz}")], &Reading::default()).unwrap();
        assert_eq!(names(&found, folder.path()), ["b/1.jsonl.gz", "b/c/2.txt"]);
        let any = Reading { format: Some(Format::Text), ..Reading::default() };
        assert_eq!(find(&[at("")], &any).unwrap().inputs.len(), 5);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let refused = |names: &[String]| find(names, &Reading::default()).unwrap_err().to_string();
        assert!(refused(&[]).contains("no input"));
        assert!(refused(&[at("absent.txt")]).contains("absent.txt"));
        assert!(refused(&[at("notes.doc")]).contains("--input-format"));
        assert!(refused(&[at("*.doc")]).contains("of 1 files none"));
        assert!(refused(&[at("b/[")]).contains("not a glob"));
        assert!(refused(&["-".to_owned()]).contains("stdin: its ending"));
        assert!(refused(&[at("b/c/2.txt"), at("b")]).contains("named twice"));
        let said = refused(&[at("b/c/2.txt"), at("b/../b")]);
        assert!(said.contains("b/../b/c/2.txt is named twice (before as ") && said.contains("/b/c/2.txt)"), "{said}");
        std::os::unix::fs::symlink(at("b/c/2.txt"), at("link.txt")).unwrap();
        assert!(refused(&[at("")]).contains("link.txt is named twice (before as "));
    }
}
