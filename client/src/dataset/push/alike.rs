//! Whether the files of a version belong together: all with one token column of one type, and the same columns beside.
//!
//! Must never let a version have files that one reader could not read as one table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gigastore_formats::digest::Digest;
use gigastore_formats::manifest::dataset::{DatasetMeta, FileRow, TokenColumn};
use gigastore_formats::table::tokens::{TokenError, TokenFile, TokenWidth};

use super::error::PushError;
use super::look::{Given, Looked};
use super::{PushSpec, TokenChoice};
use crate::dataset::read::Dataset;
use crate::dataset::rows;

type Columns = Vec<(String, String)>;

/// Finds what the token column of a version is; none where it is a table without tokens. `kept` are the files of the
/// newest version that stay beside those that are given, or are given again.
pub(super) fn token_column(
    spec: &PushSpec,
    given: &[Given],
    newest: Option<&Dataset>,
    kept: &[&FileRow],
) -> Result<Option<TokenColumn>, PushError> {
    let known = newest.and_then(|dataset| dataset.meta().tokens.as_ref()).filter(|_| !kept.is_empty());
    let plain_kept = kept.first().filter(|_| known.is_none());
    let new: Vec<&Looked> = given.iter().filter_map(new).collect();
    let plain = spec.tokens == TokenChoice::None
        || spec.tokens == TokenChoice::Find && new.iter().all(|file| file.is_plain()) && known.is_none();
    let mixed = |first: &str, second: &str, difference: String| {
        Err(PushError::Mixed { first: first.to_owned(), second: second.to_owned(), difference })
    };
    if plain {
        return match (known, kept.first(), new.first()) {
            (Some(known), Some(kept), Some(new)) => {
                mixed(&kept.path, &local(new), format!("the first has tokens in {}, the other has none", known.column))
            }
            _ => Ok(None),
        };
    }
    let mut found: Option<(String, TokenColumn)> =
        known.zip(kept.first()).map(|(known, kept)| (kept.path.clone(), known.clone()));
    for file in new {
        let tokens = match &file.tokens {
            Ok(tokens) => tokens,
            Err(error) => return refused(file, given, error, found.as_ref().map(|(path, _)| path.as_str())),
        };
        if let Some(kept) = plain_kept {
            let difference = format!("the second has tokens in {}, of the other none are known", tokens.column());
            return mixed(&kept.path, &local(file), difference);
        }
        match &mut found {
            None => found = Some((local(file), column_of(tokens))),
            Some((path, column)) => {
                if column.column != tokens.column() {
                    let difference = format!("tokens are in {} and in {}", column.column, tokens.column());
                    return mixed(path, &local(file), difference);
                }
                if tokens.width() == TokenWidth::U32 {
                    column.width = TokenWidth::U32;
                }
                column.counts &= has_counts(tokens);
            }
        }
    }
    let Some((_, mut column)) = found else { return Ok(None) };
    column.vocab_size = vocabulary(spec.vocab_size, known)?;
    if let Some(vocab_size) = column.vocab_size
        && TokenWidth::of_vocabulary(vocab_size) == TokenWidth::U16
    {
        // Whatever type the files declare, no token needs more.
        column.width = TokenWidth::U16;
    }
    Ok(Some(column))
}

/// Joins the token column of files to that of the version that they are added to; `first` and `second` name a file of
/// each.
pub(super) fn joined(
    before: &DatasetMeta,
    tokens: Option<TokenColumn>,
    (first, second): (&str, &str),
) -> Result<Option<TokenColumn>, PushError> {
    let mixed =
        |difference: String| Err(PushError::Mixed { first: first.to_owned(), second: second.to_owned(), difference });
    match (&before.tokens, tokens) {
        (None, None) => Ok(None),
        (Some(before), None) => mixed(format!("the first has tokens in {}, the other has none", before.column)),
        (None, Some(tokens)) => mixed(format!("the second has tokens in {}, the other has none", tokens.column)),
        (Some(before), Some(tokens)) if before.column != tokens.column => {
            mixed(format!("tokens are in {} and in {}", before.column, tokens.column))
        }
        (Some(before), Some(tokens)) => {
            let vocab_size = before.vocab_size.zip(tokens.vocab_size).map(|(a, b)| a.max(b));
            let narrow = [before.width, tokens.width] == [TokenWidth::U16; 2];
            let declared = if narrow { TokenWidth::U16 } else { TokenWidth::U32 };
            let width = vocab_size.map_or(declared, TokenWidth::of_vocabulary);
            let counts = before.counts && tokens.counts;
            Ok(Some(TokenColumn { column: tokens.column, width, vocab_size, counts }))
        }
    }
}

/// Says why a file has no token column: because of itself, or because others have one.
fn refused(
    file: &Looked,
    given: &[Given],
    error: &Arc<TokenError>,
    known: Option<&str>,
) -> Result<Option<TokenColumn>, PushError> {
    let with = given.iter().filter_map(new).find(|other| other.tokens.is_ok()).map(local);
    let with = with.or_else(|| known.map(str::to_owned)).filter(|_| file.is_plain());
    Err(match with {
        Some(first) => {
            let difference = "the first has a list of integers, the other has none".to_owned();
            PushError::Mixed { first, second: local(file), difference }
        }
        None => PushError::Tokens { path: local(file), source: Arc::clone(error) },
    })
}

fn vocabulary(asked: Option<u32>, known: Option<&TokenColumn>) -> Result<Option<u32>, PushError> {
    let kept = known.and_then(|known| known.vocab_size);
    match (asked, known, kept) {
        (Some(actual), _, Some(expected)) if actual < expected => Err(PushError::KeptVocabulary { expected, actual }),
        // Files that are kept were checked against no vocabulary.
        (Some(_), Some(_), None) => Ok(None),
        (Some(asked), _, _) => Ok(Some(asked)),
        (None, _, kept) => Ok(kept),
    }
}

fn column_of(tokens: &TokenFile) -> TokenColumn {
    let (column, width, counts) = (tokens.column().to_owned(), tokens.width(), has_counts(tokens));
    TokenColumn { column, width, vocab_size: None, counts }
}

/// Tells whether a file counts its tokens; one without row groups has nothing to count.
fn has_counts(tokens: &TokenFile) -> bool {
    (0..tokens.groups()).all(|group| tokens.counts_range(group).is_some())
}

fn new(given: &Given) -> Option<&Looked> {
    match given {
        Given::New(file) => Some(file),
        Given::Known(_) => None,
    }
}

fn local(file: &Looked) -> String {
    file.look.path().display().to_string()
}

/// Checks that all files have the same columns of the same types; whether a column may have nulls may differ.
pub(super) async fn check_columns(
    given: &[Given],
    newest: Option<&Dataset>,
    kept: &[&FileRow],
) -> Result<(), PushError> {
    let mut first: Option<(String, Columns)> = None;
    let mut seen: BTreeSet<Digest> = BTreeSet::new();
    let mut check = |name: String, columns: Columns| -> Result<(), PushError> {
        let Some((first, expected)) = &first else {
            first = Some((name, columns));
            return Ok(());
        };
        match difference(expected, &columns) {
            Some(difference) => Err(PushError::Mixed { first: first.clone(), second: name, difference }),
            None => Ok(()),
        }
    };
    for file in given.iter().filter_map(new) {
        if seen.insert(file.facts.schema) {
            check(local(file), file.facts.columns.clone())?;
        }
    }
    for row in kept {
        if seen.insert(row.schema)
            && let Some(dataset) = newest
        {
            check(row.path.clone(), stored_columns(dataset, row).await?)?;
        }
    }
    Ok(())
}

/// Reads the columns of a file of the newest version from its footer.
async fn stored_columns(dataset: &Dataset, row: &FileRow) -> Result<Columns, PushError> {
    let footer = rows::footer(dataset, row).await?;
    let facts = footer.and_then(|footer| footer.facts());
    Ok(facts.map_err(|source| PushError::Parquet { path: row.path.clone(), source })?.columns)
}

/// Returns the first difference between two lists of columns, whatever their order.
fn difference(first: &Columns, second: &Columns) -> Option<String> {
    let types = |columns: &Columns| -> BTreeMap<String, String> {
        let plain = |text: &String| text.split_once(' ').map_or(text.as_str(), |(_, kind)| kind).to_owned();
        columns.iter().map(|(path, text)| (path.clone(), plain(text))).collect()
    };
    let (first, second) = (types(first), types(second));
    for (path, kind) in &first {
        match second.get(path) {
            None => return Some(format!("only the first has column {path}")),
            Some(other) if other != kind => {
                return Some(format!("column {path} is {kind} in the first, {other} in the second"));
            }
            Some(_) => {}
        }
    }
    second.keys().find(|path| !first.contains_key(*path)).map(|path| format!("only the second has column {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_differ_by_name_and_type_alone() {
        let columns = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let one: Columns = columns(&[("id", "required string"), ("tokens.list.element", "required uint16")]);
        assert_eq!(
            difference(&one, &columns(&[("tokens.list.element", "optional uint16"), ("id", "optional string")])),
            None
        );
        let wide = columns(&[("id", "required string"), ("tokens.list.element", "required int32")]);
        assert_eq!(
            difference(&one, &wide).unwrap(),
            "column tokens.list.element is uint16 in the first, int32 in the second"
        );
        assert_eq!(
            difference(&one, &columns(&[("id", "required string")])).unwrap(),
            "only the first has column tokens.list.element"
        );
        assert_eq!(difference(&columns(&[]), &one).unwrap(), "only the second has column id");
    }
}
