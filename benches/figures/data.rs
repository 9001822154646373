//! Tokens of a corpus as a Python loop gets them, shuffled and packed in int64 tensors of (8, 2048): Gigastore's, and
//! those of other readers of the same documents.
//!
//! Must never measure a reader before an epoch of it was compared with the corpus, token by token, nor compare figures
//! of two runs.

use std::collections::BTreeMap;
use std::time::Instant;

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::dataset::stream::StreamOptions;
use gigastore_client::store::{OpenMode, Store};
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode as Engines;
use gigastore_formats::order::Packing;
use gigastore_formats::table::tokens::{TokenCompression, TokenFileSpec, TokenWidth};
use gigastore_tests::groups::ManyGroups;

use crate::clock::{Pairs, median};
use crate::corpus::Corpus;
use crate::peer::{Peer, Reading};
use crate::tokenize::tokenize;
use crate::{Plan, Res};

/// What others are compared with: rows of a mapped file, copied one by one into a batch.
const LIMIT: &str = "numpy_copied";

/// Our program, on a store in the layout that is written by default, and on one that is not compressed.
const OURS: &str = "gigastore_data";
const ZSTD: &str = "gigastore_data, zstd";
const UNCOMPRESSED: &str = "gigastore_data, uncompressed";

/// Rows that are measured in turns: the row, whose tokens, and whose they stand beside.
const ROWS: [(&str, &str, &str); 10] = [
    ("data.zstd", ZSTD, LIMIT),
    ("data.uncompressed", UNCOMPRESSED, LIMIT),
    ("data.beside_litdata", ZSTD, "lit_data"),
    ("data.beside_litdata.uncompressed", UNCOMPRESSED, "lit_data"),
    ("data.beside_pyarrow", ZSTD, "row_groups"),
    ("data.peers.numpy_viewed", "numpy_viewed", LIMIT),
    ("data.peers.litdata_stacked", "lit_data_stacked", LIMIT),
    ("data.peers.hf_arrow", "hf_arrow", LIMIT),
    ("data.peers.hf_parquet", "hf_parquet", LIMIT),
    ("data.peers.mosaic", "mosaic", LIMIT),
];

/// Those that read a quarter of an epoch in a run, as a whole one takes up to a minute.
const SLOW: [&str; 2] = ["hf_parquet", "mosaic"];

/// What all rows say of their runs.
const HOW: &str =
    "one process without workers, its own order each epoch, warm, from beginning an epoch to its last batch";

/// `data.*`.
pub(crate) async fn data(plan: &Plan) -> Res<()> {
    if plan.wants("data.open") {
        open(plan).await?;
    }
    if plan.wants("data.tokenize") {
        tokenize(plan)?;
    }
    if ROWS.iter().any(|(row, ..)| plan.wants(row)) {
        epochs(plan).await?;
    }
    Ok(())
}

/// The tokens that come to a Python loop.
async fn epochs(plan: &Plan) -> Res<()> {
    let corpus = Corpus::make(plan)?;
    let stores = plan.folder()?;
    let rows: Vec<_> = ROWS.into_iter().filter(|(row, ..)| plan.wants(row)).collect();
    // In this order they take turns: the limit, and next to it ours.
    let mut readers: Vec<(&str, Peer)> = Vec::new();
    for reader in rows.iter().flat_map(|(_, ours, limit)| [*limit, *ours]) {
        if readers.iter().all(|(name, _)| *name != reader) {
            readers.push((reader, start(plan, &corpus, stores.path(), reader).await?));
        }
    }
    let part = format!("read {}", plan.million_tokens() * 1_000_000 / 4);
    let mut pairs: BTreeMap<&str, Pairs> = BTreeMap::new();
    let mut cores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in 0..plan.runs() {
        let mut readings: BTreeMap<&str, Reading> = BTreeMap::new();
        for (name, reader) in &mut readers {
            eprintln!("bench: data: run {}, {name}", run + 1);
            let reading = reader.reading(if SLOW.contains(name) { &part } else { "read" })?;
            cores.entry(name).or_default().push(reading.core_seconds / reading.seconds);
            readings.insert(name, reading);
        }
        let one_token = |reader: &str| readings[reader].seconds / readings[reader].tokens as f64;
        for (row, ours, limit) in &rows {
            pairs.entry(row).or_default().push(one_token(limit), one_token(ours));
        }
    }
    for (row, ours, limit) in rows {
        let part = if SLOW.contains(&ours) { "; a quarter of an epoch" } else { "" };
        let busy = |reader: &str| median(&cores[reader]);
        let busy = format!("{:.2}, of the limit {:.2}", busy(ours), busy(limit));
        let note = format!("limit: {limit}, same run; {HOW}{part}; processors busy: {busy}");
        // Seconds are those of a token, and the unit is a million of them.
        pairs[row].report_speed(plan, row, 1e-6, &note)?;
    }
    drop(readers);
    Ok(stores.close()?)
}

/// Starts a reader, and has it read an epoch that is compared, so that it is warm, too.
async fn start(plan: &Plan, corpus: &Corpus, stores: &std::path::Path, reader: &str) -> Res<Peer> {
    let layout = TokenFileSpec::new(TokenWidth::U16);
    let (program, work) = match reader {
        ZSTD => (OURS, corpus.push(plan, &stores.join("zstd"), layout).await?),
        UNCOMPRESSED => {
            let layout = TokenFileSpec { compression: TokenCompression::None, ..layout };
            (OURS, corpus.push(plan, &stores.join("uncompressed"), layout).await?)
        }
        program => (program, corpus.copies.display().to_string()),
    };
    eprintln!("bench: data: {reader} makes its copy, and an epoch of it is compared");
    let mut peer = Peer::read_corpus(program, (&corpus.folder, corpus.tokens()), &work, &corpus.settings()?)?;
    peer.reading("check")?;
    Ok(peer)
}

/// `data.open`: the index of a version of many row groups, by a client that is new.
async fn open(plan: &Plan) -> Res<()> {
    let many = if plan.quick { ManyGroups { files: 20, groups: 1000 } } else { ManyGroups::MILLION };
    let folder = plan.folder()?;
    let url = format!("file://{}", folder.path().display());
    let engine = Engine::open(&url.parse()?, Engines::Create, [], SystemAmbient::shared()).await?;
    many.commit(&engine, &"bench".parse()?, &"groups".parse()?).await?;
    drop(engine);
    let target: gigastore_formats::name::Target = "bench/groups".parse()?;
    let (mut opened, mut streamed) = (Vec::new(), Vec::new());
    for _ in 0..plan.runs() {
        let started = Instant::now();
        let index = Store::open(&url, OpenMode::Existing).await?.dataset_index(&target).await?;
        opened.push(started.elapsed().as_secs_f64() * 1e3);
        if index.index().rows.len() as u64 != many.row_groups() {
            return Err(format!("{} row groups, expected {}", index.index().rows.len(), many.row_groups()).into());
        }
        drop(index);
        let started = Instant::now();
        let options = StreamOptions::new(target.clone(), 1, Packing::Concat { seq_len: 2048 }, 8);
        Store::open(&url, OpenMode::Existing).await?.stream(options).await?;
        streamed.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let ms = median(&opened);
    let note = format!("{} row groups; a stream, with its order: {:.0} ms", many.row_groups(), median(&streamed));
    plan.report("data.open", &note, |row, note| row.of(ms, note))?;
    Ok(folder.close()?)
}
