//! `gigastore data head`
//!
//! Must never show text that another tokenizer would decode: its digest is compared with the version's.

use std::path::PathBuf;

use clap::Args;
use gigastore_client::dataset::IndexedDataset;
use gigastore_formats::name::Target;
use gigastore_formats::table::tokens::{Documents, TokenSlice};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{say, say_json};

/// Tokens of a document that are printed or decoded, unless --all: about a screen.
const SHOWN_TOKENS: usize = 256;

/// Show the first documents of a dataset version: where they stand, their tokens, and their text
///
/// Text needs the tokenizer.json that the version was made with: --tokenizer FILE, else the one
/// that its lineage names, if it is still there. Its BLAKE3 must be that of the lineage.
///
/// Example:
///
///   gigastore data head demo/books -n 3 --tokenizer tokenizer.json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Head {
    /// What to show; without @… the latest
    target: Target,
    /// How many documents
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    documents: usize,
    /// Begin with this file of the dataset
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// The tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Show whole documents, not their first 256 tokens
    #[arg(long)]
    all: bool,
}

/// A document as it is shown.
struct Shown {
    path: String,
    row: u64,
    length: usize,
    tokens: Vec<u32>,
}

impl Head {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let dataset = globals.open().await?.dataset_index(&self.target).await?;
        if dataset.index().meta.tokens.is_none() {
            let text = format!("{} has no token column: it is a table of its own", self.target);
            return Err(Failure::general(text).with_hint("gigastore data get prints and copies its files"));
        }
        let decode = self.decoder(&dataset, globals)?;
        let shown = self.read(&dataset).await?;
        if globals.json() {
            let documents = shown.iter().map(|document| {
                let text = decode.as_ref().map(|decode| decode(&document.tokens)).transpose()?;
                Ok(json!({
                    "file": document.path, "row": document.row, "n_tokens": document.length,
                    "tokens": document.tokens, "text": text,
                }))
            });
            let documents = documents.collect::<Result<Vec<_>, Failure>>()?;
            let version = dataset.info().commit.number;
            say_json(&json!({ "dataset": self.target.to_string(), "version": version, "documents": documents }));
            return Ok(());
        }
        for document in &shown {
            let Shown { path, row, length, tokens } = document;
            let more = if tokens.len() < *length { " …" } else { "" };
            say(&format_args!("{path} row {row}, {length} tokens"));
            match &decode {
                Some(decode) => say(&format_args!("{}{more}", printable(&decode(tokens)?))),
                None => {
                    let tokens: Vec<String> = tokens.iter().map(u32::to_string).collect();
                    say(&format_args!("{}{more}", tokens.join(" ")));
                }
            }
            say(&"");
        }
        Ok(())
    }

    /// Reads the first documents, one row group after the other.
    async fn read(&self, dataset: &IndexedDataset) -> Result<Vec<Shown>, Failure> {
        let files = &dataset.index().files;
        let first = match &self.file {
            None => 0,
            Some(path) => files.binary_search_by(|file| file.path.cmp(path)).map_err(|_| {
                let known: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
                Failure::not_found(format!("{} has no file {path:?}", self.target)).near(path, &known)
            })?,
        };
        let most = if self.all { usize::MAX } else { SHOWN_TOKENS };
        let mut shown = Vec::new();
        for (at, file) in files.iter().enumerate().skip(first) {
            let mut row = 0;
            let (facts, tokens) = (dataset.file(at).await?, dataset.token_file(at).await?);
            for group in 0..tokens.groups() {
                if shown.len() >= self.documents {
                    return Ok(shown);
                }
                let range = tokens.tokens_range(group);
                let chunk = dataset.read_ranges(&facts, &[range]).await?.pop().unwrap_or_default();
                let mut documents = Documents::new(tokens.width());
                let unsound = |error| Failure::local(&format!("the tokens of {} can't be read", file.path), &error);
                tokens.read_tokens(group, &chunk, &mut documents).map_err(unsound)?;
                for number in 0..documents.len().min(self.documents - shown.len()) {
                    let document = documents.document(number).unwrap_or(TokenSlice::U16(&[]));
                    let (length, tokens) = (document.len(), document.iter().take(most).collect());
                    shown.push(Shown { path: file.path.clone(), row: row + number as u64, length, tokens });
                }
                row += tokens.rows(group);
            }
        }
        Ok(shown)
    }

    /// Returns what turns tokens into text, where there is a tokenizer.
    #[cfg(feature = "tokenize")]
    fn decoder(&self, dataset: &IndexedDataset, globals: &Globals) -> Result<Option<Decode>, Failure> {
        use crate::output::note;
        use gigastore_ingest::encode::{Encoder, Ends, Eos};

        let lineage = dataset.index().meta.lineage.clone().unwrap_or_default();
        let named = lineage.tokenizer_file.map(PathBuf::from);
        let Some(path) = self.tokenizer.clone().or(named.filter(|path| path.is_file())) else {
            if !globals.quiet {
                note(&"tokens alone: pass --tokenizer FILE to see their text");
            }
            return Ok(None);
        };
        let encoder = Encoder::open(&path, &Ends { eos: Eos::None, ..Ends::default() })?;
        match lineage.tokenizer {
            Some(expected) if expected != encoder.digest() => {
                let text = format!("{} is not the tokenizer that {} was made with", path.display(), self.target);
                let differs = format!("expected BLAKE3 {expected}, actual {}", encoder.digest());
                return Err(Failure::general(format!("{text}: {differs}")));
            }
            None if !globals.quiet => note(&"which tokenizer the dataset was made with is not known"),
            _ => {}
        }
        Ok(Some(Box::new(move |tokens| {
            encoder.decode(tokens).map_err(|error| Failure::local("the tokens can't be decoded", &error))
        })))
    }

    /// Refuses a tokenizer: this program was built without the library.
    #[cfg(not(feature = "tokenize"))]
    fn decoder(&self, _: &IndexedDataset, _: &Globals) -> Result<Option<Decode>, Failure> {
        match &self.tokenizer {
            None => Ok(None),
            Some(_) => Err(Failure::usage("--tokenizer: this program was built without the feature `tokenize`")),
        }
    }
}

type Decode = Box<dyn Fn(&[u32]) -> Result<String, Failure>>;

/// Takes from a text what a terminal would obey.
fn printable(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing() {
        assert_eq!(printable("a\n\tb\u{1b}[2Jé"), "a\n\tb\\u{1b}[2Jé");
    }
}
