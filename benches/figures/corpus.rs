//! The corpus that the data rows read, and stores that have it in Gigastore's layouts.
//!
//! The corpus and the peers' own copies of it stay for the next bench. Must never keep a copy of another corpus, nor a
//! store of ours: the code that wrote it may have been another.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gigastore_client::dataset::PushSpec;
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::table::tokens::{TokenFileSpec, TokenFileWriter};
use serde::Deserialize;

use crate::{Plan, Res, setting};

/// Where the stream of `gigastore_data.py` finds it.
const TARGET: (&str, &str) = ("bench", "corpus");

/// Tokens of a file: 2^25, of four row groups as they are by default.
const FILE_TOKENS: u64 = 1 << 25;

/// Documents made by `benches/peers/data/corpus.py`.
pub(crate) struct Corpus {
    pub(crate) folder: PathBuf,
    /// Where peers keep copies of their own, and files that they write beside them.
    pub(crate) copies: PathBuf,
    facts: Facts,
}

/// What `corpus.json` says, as far as it is needed here.
#[derive(Deserialize)]
struct Facts {
    tokens: u64,
    documents: u64,
    vocab_size: u32,
    sha256: String,
}

impl Corpus {
    /// Makes the corpus, or finds it where it was made before.
    pub(crate) fn make(plan: &Plan) -> Res<Self> {
        let millions = plan.million_tokens();
        eprintln!("bench: data: a corpus of {millions} M tokens");
        let folder = plan.kept(&format!("corpus-{millions}m"))?;
        let mut command = Command::new(setting("GIGASTORE_BENCH_PYTHON")?);
        command.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/peers/data/corpus.py")]);
        command.arg(setting("GIGASTORE_BENCH_MODEL")?.join("tokenizer.json")).arg(&folder);
        command.arg((millions * 1_000_000).to_string()).args(texts()?).envs(packages()?);
        // Lines on stdout are figures.
        let status = command.stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr())).status()?;
        if !status.success() {
            return Err(format!("the corpus could not be made: {status}; what its program said stands above").into());
        }
        let facts: Facts = serde_json::from_slice(&fs::read(folder.join("corpus.json"))?)?;
        let copies = folder.join("copies");
        let of = copies.join("of");
        if fs::read_to_string(&of).ok().as_ref() != Some(&facts.sha256) {
            match fs::remove_dir_all(&copies) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => fs::create_dir_all(&copies)?,
            }
            fs::write(of, &facts.sha256)?;
        }
        Ok(Self { folder, copies, facts })
    }

    /// Returns its tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.facts.tokens
    }

    /// Returns what peers need to be told: where their packages are, and where to keep what they write.
    pub(crate) fn settings(&self) -> Res<Vec<(String, String)>> {
        let mut settings = packages()?;
        for (variable, folder) in [("HF_HOME", "hf_home"), ("LITDATA_CACHE_DIR", "litdata_cache"), ("TMPDIR", "tmp")] {
            let folder = self.copies.join(folder);
            fs::create_dir_all(&folder)?;
            settings.push((variable.to_owned(), folder.display().to_string()));
        }
        Ok(settings)
    }

    /// Pushes the documents to a new store in a folder, in a layout of ours; returns the store's URL.
    pub(crate) async fn push(&self, plan: &Plan, folder: &Path, layout: TokenFileSpec) -> Res<String> {
        eprintln!("bench: data: pushing it to a store, {:?}", layout.compression);
        let parquet = plan.folder()?;
        let vocab_size = Some(self.facts.vocab_size);
        let files = self.write_files(parquet.path(), &TokenFileSpec { vocab_size, ..layout })?;
        let url = format!("file://{}", folder.display());
        let spec = PushSpec { vocab_size, ..PushSpec::new(TARGET.0.parse()?, TARGET.1.parse()?) };
        let pushed = Store::open(&url, OpenMode::Create).await?.push(&spec, &files, &Progress::default()).await?;
        parquet.close()?;
        let (actual, expected) = ((pushed.documents, pushed.tokens), (self.facts.documents, self.facts.tokens));
        let wrong = || format!("documents and tokens pushed: {actual:?}, expected {expected:?}").into();
        if actual == expected { Ok(url) } else { Err(wrong()) }
    }

    fn write_files(&self, folder: &Path, spec: &TokenFileSpec) -> Res<Vec<PathBuf>> {
        let ends = fs::read(self.folder.join("ends.bin"))?;
        let ends: Vec<u64> = ends.as_chunks().0.iter().map(|end| u64::from_le_bytes(*end)).collect();
        let mut tokens = BufReader::new(File::open(self.folder.join("tokens.bin"))?);
        let (mut files, mut number, mut begin) = (Vec::new(), 0, 0);
        let (mut bytes, mut document) = (Vec::new(), Vec::<u16>::new());
        while number < ends.len() {
            let path = folder.join(format!("part-{:05}.parquet", files.len()));
            let mut writer = TokenFileWriter::new(BufWriter::new(File::create(&path)?), spec.clone())?;
            while number < ends.len() && writer.tokens() < FILE_TOKENS {
                let len = ends[number].checked_sub(begin).ok_or("a document ends before it begins")?;
                bytes.resize(2 * len as usize, 0);
                tokens.read_exact(&mut bytes)?;
                document.clear();
                document.extend(bytes.as_chunks().0.iter().map(|token| u16::from_le_bytes(*token)));
                writer.push(&format!("document-{number:08}"), &document[..])?;
                (begin, number) = (ends[number], number + 1);
            }
            writer.finish()?.0.flush()?;
            files.push(path);
        }
        Ok(files)
    }
}

/// Returns the texts, or folders of them.
pub(crate) fn texts() -> Res<Vec<PathBuf>> {
    Ok(std::env::split_paths(&setting("GIGASTORE_BENCH_TEXTS")?).collect())
}

/// Returns the variable by which Python finds the peers' packages.
fn packages() -> Res<Vec<(String, String)>> {
    Ok(vec![("PYTHONPATH".to_owned(), setting("GIGASTORE_BENCH_PACKAGES")?.display().to_string())])
}
