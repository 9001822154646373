//! Datasets whose every token says where it is from, and whole streams of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use gigastore_client::dataset::PushSpec;
use gigastore_client::dataset::stream::{FILLER, Share, Stream, StreamOptions};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_formats::order::{Packing, Seen};
use gigastore_formats::table::tokens::{TokenCompression, TokenFileSpec, TokenFileWriter, TokenWidth};
use gigastore_tests::faulty::FaultyStore;
use gigastore_tests::model::XorShift;
use gigastore_tests::opened;
use object_store::memory::InMemory;

/// Samples by their position in the stream.
pub(super) type Samples = BTreeMap<i64, Vec<i64>>;

/// How many documents and tokens the files of a dataset have.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) files: usize,
    pub(super) documents: usize,
    pub(super) longest: u64,
    pub(super) group_tokens: u64,
}

/// Files with few documents in many row groups.
pub(super) const SMALL: Shape = Shape { files: 3, documents: 40, longest: 60, group_tokens: 150 };

/// Tokens of a long row group: 5 MiB of them.
const LONG_GROUP_TOKENS: u64 = 5 << 19;

/// A store that counts and can be made to fail, and a client of it.
pub(super) struct Made {
    pub(super) faults: FaultyStore,
    pub(super) store: Store,
    _folder: tempfile::TempDir,
    folder: PathBuf,
}

impl Made {
    pub(super) async fn new() -> Self {
        let faults = FaultyStore::new(Arc::new(InMemory::new()));
        let store = opened::open(Arc::new(faults.clone()), OpenMode::Create).await.unwrap();
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_owned();
        Self { faults, store, _folder: temporary, folder }
    }

    /// Opens the store as another process would, with nothing read yet.
    pub(super) async fn reopen(&self) -> Store {
        opened::open(Arc::new(self.faults.clone()), OpenMode::Existing).await.unwrap()
    }

    /// Pushes a dataset; returns its documents. The tokens of document `d` begin with its number, in two tokens.
    pub(super) async fn push(&self, name: &str, seed: u64, shape: Shape) -> Vec<Vec<i64>> {
        let mut random = XorShift::new(seed);
        let (mut paths, mut documents) = (Vec::new(), Vec::new());
        for file in 0..shape.files {
            let path = self.folder.join(format!("{name}-{file:03}.parquet"));
            let mut spec = TokenFileSpec::new(TokenWidth::U16);
            spec.row_group_tokens = shape.group_tokens;
            spec.compression = if file % 2 == 0 { TokenCompression::None } else { TokenCompression::Zstd(1) };
            let mut writer = TokenFileWriter::new(File::create(&path).unwrap(), spec).unwrap();
            for _ in 0..shape.documents {
                let number = documents.len() as u64;
                let len = random.below(shape.longest + 1);
                let head = [(number / 200) as u16, (number % 200) as u16];
                let rest = (2..len).map(|_| 1000 + random.below(50_000) as u16);
                let tokens: Vec<u16> = head.into_iter().chain(rest).take(len as usize).collect();
                writer.push(&number.to_string(), tokens.as_slice()).unwrap();
                documents.push(tokens.iter().map(|token| i64::from(*token)).collect());
            }
            writer.finish().unwrap();
            paths.push(path);
        }
        let spec = PushSpec::new("p".parse().unwrap(), name.parse().unwrap());
        self.store.push(&spec, &paths, &Progress::default()).await.unwrap();
        documents
    }
}

impl Made {
    /// Pushes a dataset of one file of row groups that are long enough to be left where they are read. Returns its
    /// documents.
    pub(super) async fn push_long(&self, name: &str, groups: u64) -> Vec<Vec<u16>> {
        let path = self.folder.join(format!("{name}.parquet"));
        let mut spec = TokenFileSpec::new(TokenWidth::U16);
        (spec.row_group_tokens, spec.compression) = (LONG_GROUP_TOKENS, TokenCompression::None);
        let mut writer = TokenFileWriter::new(File::create(&path).unwrap(), spec).unwrap();
        let (mut random, mut documents, mut tokens) = (XorShift::new(groups), Vec::new(), 0);
        while tokens < groups * LONG_GROUP_TOKENS {
            let len = random.below(6000) + u64::from(documents.is_empty());
            let document: Vec<u16> = (0..len).map(|_| random.below(50_000) as u16).collect();
            writer.push(&documents.len().to_string(), &document[..]).unwrap();
            tokens += len;
            documents.push(document);
        }
        writer.finish().unwrap();
        let spec = PushSpec::new("p".parse().unwrap(), name.parse().unwrap());
        self.store.push(&spec, &[path], &Progress::default()).await.unwrap();
        documents
    }

    /// Pushes a dataset of one file of row groups of so many tokens, in documents of 4,096.
    pub(super) async fn push_even(&self, name: &str, groups: u64, group_tokens: u64) {
        let path = self.folder.join(format!("{name}.parquet"));
        let mut spec = TokenFileSpec::new(TokenWidth::U16);
        (spec.row_group_tokens, spec.compression) = (group_tokens, TokenCompression::None);
        let mut writer = TokenFileWriter::new(File::create(&path).unwrap(), spec).unwrap();
        for number in 0..groups * group_tokens / 4096 {
            writer.push(&number.to_string(), &[number as u16; 4096][..]).unwrap();
        }
        writer.finish().unwrap();
        let spec = PushSpec::new("p".parse().unwrap(), name.parse().unwrap());
        self.store.push(&spec, &[path], &Progress::default()).await.unwrap();
    }
}

/// Returns options for a small dataset: 4 lanes with windows of two row groups.
pub(super) fn options(name: &str, packing: Packing, batch_size: u32) -> StreamOptions {
    let mut options = StreamOptions::new(format!("p/{name}").parse().unwrap(), 11, packing, batch_size);
    options.order.lanes = 4;
    options.columns.loss_mask = true;
    options.columns.position_ids = true;
    options
}

/// Returns the options of one rank, and of one of its workers.
pub(super) fn of_rank(options: &StreamOptions, rank: u32, world_size: u32, worker: (u32, u32)) -> StreamOptions {
    let (worker, workers) = worker;
    let share = Share { rank, world_size, batch_size: options.share.batch_size, worker, workers };
    StreamOptions { share, ..options.clone() }
}

/// Takes `batches` batches, or all; puts their samples to the others. Returns what was seen in them.
pub(super) async fn take(stream: &mut Stream, batches: u64, samples: &mut Samples) -> Seen {
    let mut seen = Seen::default();
    for _ in 0..batches {
        let Some(batch) = stream.next().await.unwrap() else { break };
        seen.add(&batch.seen);
        let rows = batch.positions.len();
        assert_eq!(rows, stream.options().share.batch_size as usize);
        assert_eq!(batch.cu_seqlens.last().copied(), Some(batch.tokens.len() as i32));
        assert_eq!(batch.loss_mask.len(), batch.tokens.len());
        assert_eq!(batch.loss_mask.iter().filter(|there| **there == 1).count() as u64, batch.seen.tokens);
        assert_eq!(batch.position_ids.len(), batch.tokens.len());
        for border in batch.cu_seqlens.windows(2) {
            let piece = border[0] as usize..border[1] as usize;
            assert!(batch.position_ids[piece.clone()].iter().copied().eq(0..piece.len() as i64));
        }
        let mut pieces = batch.cu_seqlens.windows(2);
        for (row, position) in batch.positions.iter().enumerate() {
            let tokens = match batch.seq_len {
                Some(len) => &batch.tokens[row * len as usize..(row + 1) * len as usize],
                None if *position == FILLER => continue,
                None => {
                    let border = pieces.next().unwrap();
                    &batch.tokens[border[0] as usize..border[1] as usize]
                }
            };
            if *position != FILLER {
                assert!(samples.insert(*position, tokens.to_vec()).is_none(), "sample {position} came twice");
            }
        }
    }
    seen
}

/// Reads a whole stream as so many ranks with so many workers each; returns all samples, and what was seen in all.
pub(super) async fn read(store: &Store, options: &StreamOptions, world_size: u32, workers: u32) -> (Samples, Seen) {
    let (mut samples, mut seen) = (Samples::new(), Seen::default());
    for rank in 0..world_size {
        for worker in 0..workers {
            let options = of_rank(options, rank, world_size, (worker, workers));
            let mut stream = store.stream(options).await.unwrap();
            seen.add(&take(&mut stream, u64::MAX, &mut samples).await);
        }
    }
    (samples, seen)
}
