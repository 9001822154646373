//! What users do, and what they do it with: operations, names, tensors and files that are the same in every run.
//!
//! Must never do anything itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::retention::Verb;
use gigastore_formats::table::tokens::{TokenFileSpec, TokenFileWriter, TokenWidth};
use gigastore_formats::tensor::dtype::Dtype;

use super::world::Chance;
use crate::model::Tensor;

/// Returns the project that all participants work on.
pub fn project() -> ProjectName {
    "p".parse().expect("a sound name")
}

/// Returns a name.
pub(super) fn name(text: &str) -> Name {
    text.parse().expect("a sound name")
}

/// Files that pushes take, in a folder of their own; the same content in every run.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Writes them.
    pub fn new(folder: &Path) -> std::io::Result<Self> {
        let files = Self(folder.to_owned());
        for i in 0..3 {
            let spec = TokenFileSpec { row_group_tokens: 8, ..TokenFileSpec::new(TokenWidth::U16) };
            let mut writer = TokenFileWriter::new(File::create(files.path(i))?, spec).map_err(std::io::Error::other)?;
            for document in 0..5 {
                let tokens: Vec<u32> = (0..7).map(|at| i * 100 + document * 10 + at).collect();
                writer.push(&format!("{i}-{document}"), tokens.as_slice()).map_err(std::io::Error::other)?;
            }
            writer.finish().map_err(std::io::Error::other)?;
        }
        Ok(files)
    }

    /// Returns the path of a file.
    pub fn path(&self, i: u32) -> PathBuf {
        self.0.join(format!("{i}.parquet"))
    }
}

/// One operation of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// One rank of a save.
    Save {
        /// The run.
        run: &'static str,
        /// The step.
        step: u64,
        /// Which rank, of how many.
        rank: (u32, u32),
        /// The attempt; two of one step are rivals.
        attempt: &'static str,
        /// What the tensors are made from: others, other content.
        content: u64,
    },
    /// A dataset gets one more file.
    Push {
        /// The dataset.
        dataset: &'static str,
        /// Which of the [`Files`].
        file: u32,
    },
    /// A tag is set.
    Tag {
        /// The run or dataset.
        name: &'static str,
        /// The tag.
        tag: &'static str,
        /// The step or version.
        number: u64,
    },
    /// A step or version is pinned or dropped.
    Keep {
        /// Which of them.
        verb: Verb,
        /// The run or dataset.
        name: &'static str,
        /// The step or version.
        number: u64,
    },
    /// A step that was acknowledged to anyone is restored and compared.
    Restore {
        /// The run.
        run: &'static str,
        /// The step.
        step: u64,
    },
    /// Garbage is collected.
    Collect {
        /// Which collection of its user.
        n: u32,
        /// Age of a fence before its garbage is deleted.
        grace: Duration,
        /// Silence after which a save counts as abandoned.
        save_timeout: Duration,
    },
}

/// Returns the tensors of a step: one that no step changes, one that every second step changes, one that each changes.
pub fn tensors(step: u64, content: u64) -> Vec<Tensor> {
    let tensor = |name: &str, of: u64, elements: u64| {
        let mut chance = Chance::new(of ^ (content << 32));
        let data: Vec<u8> = (0..elements).map(|_| chance.draw() as u8).collect();
        Tensor { name: name.to_owned(), dtype: Dtype::U8, shape: vec![elements], data: Bytes::from(data) }
    };
    vec![
        tensor("always", 1 << 16, 2000),
        tensor("each", (3 << 16) | step, 700),
        tensor("second", (2 << 16) | (step / 2), 1200),
    ]
}
