//! How much memory a stream takes: asked of a process of its own, which streams more than it may hold.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use gigastore_client::dataset::PushSpec;
use gigastore_client::dataset::stream::StreamOptions;
use gigastore_client::store::{OpenMode, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_formats::order::Packing;
use gigastore_formats::table::tokens::{TokenCompression, TokenFileSpec, TokenFileWriter, TokenWidth};
use gigastore_tests::memory::own_kib;
use gigastore_tests::model::XorShift;

/// Where the child process finds the number of its case, and its store.
const STORE: &str = "GIGASTORE_TEST_STREAM";

/// Tokens of the dataset: 128 MiB, more than a stream of it may take.
const TOKENS: usize = 64 << 20;

/// A layout of it, and how it is streamed.
struct Case {
    compression: TokenCompression,
    group_tokens: usize,
    lanes: u32,
    window: u32,
    prefetch_bytes: u64,
}

/// Windows of the one are copies of many small row groups; of the other they are what was read.
const CASES: [Case; 2] = [
    Case {
        compression: TokenCompression::Zstd(1),
        group_tokens: 1 << 20,
        lanes: 4,
        window: 2,
        prefetch_bytes: 4 << 20,
    },
    Case { compression: TokenCompression::None, group_tokens: 4 << 20, lanes: 2, window: 1, prefetch_bytes: 24 << 20 },
];

/// Tokens of a document.
const DOCUMENT: usize = 1 << 10;

/// Memory beside the windows: the batches that are made ahead, the order, threads, and what the allocator holds back.
const BESIDE: u64 = 16 << 20;

/// Returns the memory of this process that is no file's, in bytes.
fn anonymous() -> u64 {
    own_kib("RssAnon") << 10
}

fn write(path: &Path, case: &Case, seed: u64) {
    let mut random = XorShift::new(seed);
    let mut spec = TokenFileSpec::new(TokenWidth::U16);
    spec.row_group_tokens = case.group_tokens as u64;
    spec.compression = case.compression;
    let mut writer = TokenFileWriter::new(File::create(path).unwrap(), spec).unwrap();
    for document in 0..TOKENS / 4 / DOCUMENT {
        let tokens: Vec<u16> = (0..DOCUMENT).map(|_| random.below(50_000) as u16).collect();
        writer.push(&document.to_string(), tokens.as_slice()).unwrap();
    }
    writer.finish().unwrap();
}

/// What the child process does: streams all of it, and looks at its memory after each batch.
async fn stream(url: &str, case: &Case) {
    let store = Store::open(url, OpenMode::Existing).await.unwrap();
    let before = anonymous();
    let packing = Packing::Concat { seq_len: 512 };
    let mut options = StreamOptions::new("p/data".parse().unwrap(), 1, packing, 8);
    (options.order.lanes, options.order.window, options.prefetch_bytes) =
        (case.lanes, case.window, case.prefetch_bytes);
    let mut stream = store.stream(options).await.unwrap();
    let bound = stream.memory_bound();
    let (mut peak, mut tokens) = (0, 0);
    while let Some(batch) = stream.next().await.unwrap() {
        tokens += batch.tokens.len();
        peak = peak.max(anonymous().saturating_sub(before));
    }
    println!("peak {} of {} KiB", peak >> 10, bound >> 10);
    assert!(tokens >= TOKENS);
    assert!(bound < 2 * TOKENS as u64, "a bound of {bound} is no bound");
    assert!(peak < bound + BESIDE, "peak {peak}, bound {bound}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_to_its_bound() {
    if let Ok(told) = std::env::var(STORE) {
        let (case, url) = told.split_once(' ').unwrap();
        return stream(url, &CASES[case.parse::<usize>().unwrap()]).await;
    }
    for (number, case) in CASES.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/store", folder.path().display());
        let store = Store::open(&url, OpenMode::Create).await.unwrap();
        let paths: Vec<_> = (0..4).map(|file| folder.path().join(format!("{file}.parquet"))).collect();
        paths.iter().enumerate().for_each(|(seed, path)| write(path, case, seed as u64 + 1));
        let spec = PushSpec::new("p".parse().unwrap(), "data".parse().unwrap());
        store.push(&spec, &paths, &Progress::default()).await.unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["stream::memory::a_stream_keeps_to_its_bound", "--exact", "--nocapture"]);
        let output = child.env(STORE, format!("{number} {url}")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "case {number}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        println!("case {number}: {}", said.lines().find(|line| line.starts_with("peak")).unwrap());
    }
}
