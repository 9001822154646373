//! Files that tensors make, end to end: whatever shards a checkpoint was saved in, the bytes of its files are the same.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_client::Coded;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::{Compression, SaveSpec, Slice};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::source::SliceData;
use gigastore_engine::store::OpenMode;
use gigastore_formats::digest::Digest;
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::{CopyPlan, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::header::SafetensorsHeader;
use gigastore_formats::tensor::index::ShardIndex;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::wire::FaultCode;
use gigastore_server::{Access, Limits};
use gigastore_tests::faulty::FaultyStore;
use gigastore_tests::model::{Tensor, XorShift};
use gigastore_tests::opened::{engine, open, serve};
use gigastore_tests::raw::{Answer, ask};
use object_store::memory::InMemory;
use serde_json::{Value, json};

use crate::served::{Served, Setup, TABLE, bearer, file, spec, token};

/// The ranks of all these saves.
const RANKS: u64 = 4;

/// Tensors of every element type, some of several groups, scalars and empty ones among them.
fn tensors() -> Vec<Tensor> {
    let mut random = XorShift::new(3);
    let mut make = |name: String, dtype: Dtype, shape: &[u64]| {
        let len = dtype.bytes_of(shape.iter().product()).unwrap() as usize;
        // Few values, so that coded slices are smaller than raw ones.
        let data: Vec<u8> = random.bytes(len).iter().map(|byte| byte & 0x13).collect();
        Tensor { name, dtype, shape: shape.to_vec(), data: data.into() }
    };
    let mut all: Vec<Tensor> = Dtype::ALL.iter().map(|dtype| make(format!("a.{dtype}"), *dtype, &[12, 16])).collect();
    all.push(make("cube".to_owned(), Dtype::BF16, &[8, 12, 20]));
    all.push(make("empty".to_owned(), Dtype::F32, &[0, 7]));
    all.push(make("odd".to_owned(), Dtype::F4, &[4, 3]));
    all.push(make("scalar".to_owned(), Dtype::F64, &[]));
    all.push(make("w.cols".to_owned(), Dtype::F32, &[1100, 1000]));
    all.push(make("w.rows".to_owned(), Dtype::F32, &[1100, 1000]));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Returns the part of a tensor that a rank has, cut along one dimension; all of it is of the first rank where that
/// can't be cut.
fn part(tensor: &Tensor, along: usize, rank: u64) -> Option<Slice> {
    let whole = TensorBox::whole(&tensor.shape).unwrap();
    let cut = tensor.shape.get(along).filter(|size| *size % RANKS == 0 && **size > 0 && tensor.name != "odd");
    let area = match cut {
        Some(size) => {
            let (mut offsets, mut sizes) = (vec![0; tensor.shape.len()], tensor.shape.clone());
            sizes[along] = size / RANKS;
            offsets[along] = rank * sizes[along];
            TensorBox::new(offsets, sizes).unwrap()
        }
        None if rank == 0 => whole.clone(),
        None => return None,
    };
    let mut bytes = vec![0; area.bytes(tensor.dtype).unwrap() as usize];
    if let Some(plan) = CopyPlan::new(tensor.dtype, &whole, &area).unwrap() {
        for run in (0..plan.runs()).map(|i| plan.run(i)) {
            let (from, to, len) = (run.from as usize, run.to as usize, run.len as usize);
            bytes[to..to + len].copy_from_slice(&tensor.data[from..from + len]);
        }
    }
    let id = SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area).unwrap();
    Some(Slice { id, data: SliceData::Memory(bytes.into()), replicas: Vec::new() })
}

/// Saves the tensors with some files beside them; each along its first dimension, or its last.
async fn save(store: &Store, spec: SaveSpec, tensors: &[Tensor], by_columns: bool, files: &[(&str, Bytes)]) {
    let metadata = [("safetensors:format".to_owned(), "pt".to_owned())].into();
    let save = store.begin_save(SaveSpec { metadata, ..spec }, Progress::default()).await.unwrap();
    for rank in 0..RANKS {
        let along = |tensor: &Tensor| if by_columns { tensor.shape.len().saturating_sub(1) } else { 0 };
        let mut slices: Vec<Slice> = tensors.iter().filter_map(|tensor| part(tensor, along(tensor), rank)).collect();
        if rank == 0 {
            slices.extend(files.iter().map(|(path, content)| file(path, content.clone())));
        }
        save.rank(rank as u32, slices).await.unwrap();
    }
    save.finish().await.unwrap();
}

/// Checks that a file is what the format says of these tensors, by hand.
fn check_file(bytes: &[u8], tensors: &[Tensor]) {
    let len = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = SafetensorsHeader::parse(&bytes[..len], 1 << 20).unwrap();
    header.check_file_len(bytes.len() as u64).unwrap();
    assert_eq!(header.metadata.get("format").map(String::as_str), Some("pt"));
    assert_eq!(header.tensors.len(), tensors.len());
    for ((name, info), tensor) in header.tensors.iter().zip(tensors) {
        assert_eq!((name, info.dtype, &info.shape), (&tensor.name, tensor.dtype, &tensor.shape));
        let data = &bytes[len + info.data.start() as usize..len + info.data.end() as usize];
        assert!(data == tensor.data, "{name} has other bytes");
    }
}

const BELOW: &str = "/v1/projects/p/checkpoints";

const WHOLE: &str = "model.safetensors";

const SHARD: &str = "model-00001-of-00001.safetensors";

const INDEX: &str = "model.safetensors.index.json";

async fn ranged(address: SocketAddr, target: &str, start: usize, end: usize) -> Answer {
    let range = format!("bytes={start}-{}", end - 1);
    ask(address, "GET", target, &[("Range", &range)], b"").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn however_it_was_saved_the_file_has_the_same_bytes() {
    let served = Served::new().await;
    let (store, tensors) = (served.store(None), tensors());
    for (step, by_columns, compress) in [
        (1, false, Compression::Off),
        (2, true, Compression::Off),
        (3, false, Compression::Always),
        (4, true, Compression::Always),
    ] {
        let spec = SaveSpec { compress, dedup: false, ..spec("p", "run", step, RANKS as u32) };
        save(&store, spec, &tensors, by_columns, &[]).await;
    }
    let first = served.get(&format!("{BELOW}/run/1/files/{WHOLE}")).await.body;
    check_file(&first, &tensors);
    let header = 8 + u64::from_le_bytes(first[..8].try_into().unwrap()) as usize;
    let mut random = XorShift::new(1);
    for step in 1..=4 {
        let target = format!("{BELOW}/run/{step}/files/{WHOLE}");
        let whole = served.get(&target).await;
        assert_eq!(whole.status, 200, "{step}: {}", whole.text());
        assert!(whole.whole && whole.body == first, "step {step} has other bytes");
        assert_eq!(whole.header("content-length"), Some(first.len().to_string().as_str()));
        // Every border of small tensors, and ranges of any length anywhere.
        let small = first.len().min(header + 6000);
        for start in (header - 3..small).step_by(37) {
            let end = start + 1 + random.below(200) as usize;
            let answer = ranged(served.address, &target, start, end).await;
            assert!(answer.status == 206 && answer.body == first[start..end], "step {step}, {start}..{end}");
        }
        for _ in 0..60 {
            let start = random.below(first.len() as u64) as usize;
            let longest = [10, 10_000, 3 << 20][random.below(3) as usize].min(first.len() - start) as u64;
            let end = start + 1 + random.below(longest) as usize;
            let answer = ranged(served.address, &target, start, end).await;
            assert!(answer.status == 206 && answer.body == first[start..end], "step {step}, {start}..{end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_slices_in_one_block_are_read_a_part_at_a_time() {
    let served = Served::new().await;
    let store = served.store(None);
    let data = XorShift::new(4).bytes(4000);
    let tensor = |name: &str, data: &Bytes| Tensor {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: vec![data.len() as u64],
        data: data.clone(),
    };
    let scalars = (0..2000).map(|i| tensor(&format!("a.{i:04}"), &data.slice(i..i + 1)));
    let tensors: Vec<Tensor> = scalars.chain([tensor("b", &data)]).collect();
    let metadata = [("safetensors:format".to_owned(), "pt".to_owned())].into();
    let save = SaveSpec { metadata, ..spec("p", "run", 1, RANKS as u32) };
    let save = store.begin_save(save, Progress::default()).await.unwrap();
    for rank in 0..RANKS {
        // Of the last tensor each byte is a slice.
        let byte = |at: u64| {
            let area = TensorBox::new(vec![at], vec![1]).unwrap();
            let id = SliceId::tensor("b", Dtype::U8, &[4000], area).unwrap();
            Slice { id, data: SliceData::Memory(data.slice(at as usize..at as usize + 1)), replicas: Vec::new() }
        };
        let mut slices: Vec<Slice> = (rank * 1000..(rank + 1) * 1000).map(byte).collect();
        slices.extend(tensors[..2000].iter().filter_map(|tensor| part(tensor, 0, rank)));
        save.rank(rank as u32, slices).await.unwrap();
    }
    save.finish().await.unwrap();
    let whole = served.get(&format!("{BELOW}/run/1/files/{WHOLE}")).await.body;
    check_file(&whole, &tensors);
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    assert!(checkpoint.read_file(WHOLE, None, &Progress::default()).await.unwrap() == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_are_read_and_the_client_reads_the_same() {
    let served = Served::new().await;
    let (store, tensors) = (served.store(None), tensors());
    save(&store, spec("p", "run", 1, 4), &tensors, true, &[("config.json", Bytes::from_static(b"{}"))]).await;
    let listed = served.get(&format!("{BELOW}/run/1/files")).await.json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["config.json", WHOLE]);
    assert_eq!(listed[0]["blake3"], json!(Digest::of(b"{}").to_string()));
    let get = async |path: &str| served.get(&format!("{BELOW}/run/1/files/{path}")).await;
    let (whole, shard, index) = (get(WHOLE).await, get(SHARD).await, get(INDEX).await);
    assert_eq!(listed[1]["bytes"], json!(whole.body.len()));
    assert_eq!(whole.header("etag"), Some(format!("\"{}\"", listed[1]["tag"].as_str().unwrap()).as_str()));
    check_file(&whole.body, &tensors);
    assert_eq!(whole.body, shard.body);
    assert_eq!(ShardIndex::parse(&index.body).unwrap().files().into_iter().collect::<Vec<_>>(), [SHARD]);
    assert_eq!(index.header("etag"), Some(format!("\"{}\"", Digest::of(&index.body)).as_str()));
    let embedded = Store::over(Arc::new(served.engine.clone()), SystemAmbient::shared(), 64 << 20);
    for store in [&store, &embedded] {
        let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
        let files = checkpoint.files();
        assert_eq!(serde_json::to_value(&files).unwrap(), listed);
        for (path, content) in
            [(WHOLE, &whole.body), (SHARD, &whole.body), (INDEX, &index.body), ("config.json", &b"{}".to_vec())]
        {
            let progress = Progress::default();
            assert!(checkpoint.read_file(path, None, &progress).await.unwrap() == *content, "{path}");
            let len = content.len() as u64;
            for (start, end) in [(0, 0), (0, 1), (len / 2, len), (len, len), (len / 3, len / 2)] {
                let range = ByteRange::new(start, end).unwrap();
                let read = checkpoint.read_file(path, Some(range), &progress).await.unwrap();
                assert!(read == content[start as usize..end as usize], "{path} {range}");
            }
            let past = ByteRange::new(0, len + 1).unwrap();
            assert!(checkpoint.read_file(path, Some(past), &progress).await.is_err());
        }
        let error = checkpoint.read_file("model-00002-of-00002.safetensors", None, &Progress::default()).await;
        assert_eq!(error.unwrap_err().code(), FaultCode::NotFound);
        // What is exported is what is served.
        let out = tempfile::tempdir().unwrap();
        checkpoint.export(out.path(), &Default::default(), &Progress::default()).await.unwrap();
        assert!(std::fs::read(out.path().join(WHOLE)).unwrap() == whole.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_name_the_content_on_every_service() {
    let served = Served::new().await;
    let (store, tensors) = (served.store(None), tensors());
    save(&store, spec("p", "run", 1, 4), &tensors, false, &[]).await;
    save(&store, spec("p", "run", 2, 4), &tensors, false, &[]).await;
    save(&store, spec("p", "run", 3, 4), &tensors[1..], false, &[]).await;
    let (other, _) = Served::another(&served.store_folder(), None, Limits::default(), false).await;
    let target = |step: u64| format!("{BELOW}/run/{step}/files/{WHOLE}");
    let head = served.ask("HEAD", &target(1), &[], b"").await;
    let etag = head.header("etag").unwrap().to_owned();
    assert!(head.status == 200 && head.body.is_empty() && etag.len() == 66, "{head:?}");
    let elsewhere = ask(other, "HEAD", &target(1), &[], b"").await.unwrap();
    assert_eq!(
        (elsewhere.header("etag"), elsewhere.header("content-length")),
        (Some(etag.as_str()), head.header("content-length"))
    );
    let tag = async |step| served.ask("HEAD", &target(step), &[], b"").await.header("etag").unwrap().to_owned();
    assert_eq!(tag(2).await, etag, "the same content at another step");
    assert_ne!(tag(3).await, etag);
    for method in ["GET", "HEAD"] {
        let answer = served.ask(method, &target(1), &[("If-None-Match", &etag)], b"").await;
        assert_eq!((answer.status, answer.body.len()), (304, 0));
    }
    for (tag, status) in [(etag.as_str(), 206), ("\"x\"", 200)] {
        let headers = [("Range", "bytes=5-9"), ("If-Range", tag)];
        assert_eq!(served.ask("GET", &target(1), &headers, b"").await.status, status);
    }
    let past = served.ask("GET", &target(1), &[("Range", "bytes=999999999-")], b"").await;
    assert_eq!(
        (past.status, past.header("content-range")),
        (416, Some(format!("bytes */{}", head.header("content-length").unwrap()).as_str()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_wins_and_what_is_not_there_is_not_found() {
    let served = Served::new().await;
    let (store, tensors) = (served.store(None), tensors());
    let own = Bytes::from_static(b"a file of the user");
    save(&store, spec("p", "run", 1, 4), &tensors, false, &[(WHOLE, own.clone())]).await;
    save(&store, spec("p", "run", 2, 4), &tensors, false, &[]).await;
    save(&store, spec("p", "bare", 1, 4), &[], false, &[("config.json", own.clone())]).await;
    assert_eq!(served.get(&format!("{BELOW}/run/1/files/{WHOLE}")).await.body, own);
    check_file(&served.get(&format!("{BELOW}/run/1/files/{SHARD}")).await.body, &tensors);
    let list: Value = served.get(&format!("{BELOW}/run/1/files")).await.json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["bytes"]), (1, &json!(own.len())));
    for path in [
        "model-00001-of-00002.safetensors",
        "model-00000-of-00001.safetensors",
        "model-1-of-1.safetensors",
        "x/model.safetensors",
        "model.bin",
        "model",
        "Model.safetensors",
    ] {
        for method in ["GET", "HEAD"] {
            let answer = served.ask(method, &format!("{BELOW}/run/2/files/{path}"), &[], b"").await;
            assert_eq!(answer.status, 404, "{path}: {answer:?}");
        }
    }
    for path in [WHOLE, SHARD, INDEX] {
        assert_eq!(served.get(&format!("{BELOW}/bare/1/files/{path}")).await.status, 404, "it has no tensors");
    }
    assert_eq!(served.get(&format!("{BELOW}/bare/latest/files")).await.json().as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tensors_make_no_files_those_that_were_saved_are_listed() {
    let served = Served::new().await;
    let (store, mut tensors) = (served.store(None), tensors());
    // A name that safetensors keeps for itself.
    tensors[0].name = "__metadata__".to_owned();
    save(&store, spec("p", "run", 1, 4), &tensors, false, &[("config.json", Bytes::from_static(b"{}"))]).await;
    for _ in 0..2 {
        let list = served.get(&format!("{BELOW}/run/1/files")).await.json();
        assert_eq!((list.as_array().unwrap().len(), &list[0]["path"]), (1, &json!("config.json")));
        assert_eq!(served.get(&format!("{BELOW}/run/1/files/config.json")).await.body, b"{}");
        let refused = served.get(&format!("{BELOW}/run/1/files/{WHOLE}")).await;
        assert!(refused.status == 400 && refused.text().contains("__metadata__"), "{refused:?}");
    }
    let checkpoint = store.checkpoint(&"p/run@1".parse().unwrap()).await.unwrap();
    assert_eq!(checkpoint.files().len(), 1);
    let error = checkpoint.read_file(WHOLE, None, &Progress::default()).await.unwrap_err();
    assert!(error.code() == FaultCode::Invalid && error.to_string().contains("__metadata__"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_datasets_are_listed() {
    let served = Served::new().await;
    served.fill(None).await;
    let list = served.get("/v1/projects/p/datasets/data/1/files").await.json();
    let digest = Digest::of(TABLE).to_string();
    assert_eq!(list, json!([{ "path": "table.parquet", "bytes": TABLE.len(), "tag": digest, "blake3": digest }]));
    for path in ["checkpoints/data/1/files", "datasets/run/1/files"] {
        assert_eq!(served.get(&format!("/v1/projects/p/{path}")).await.status, 400, "{path} is of the other sort");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_never_sent() {
    for compress in [Compression::Off, Compression::Always] {
        let served = Served::new().await;
        let (store, tensors) = (served.store(None), tensors());
        let spec = SaveSpec { compress, ..spec("p", "run", 1, 4) };
        save(&store, spec, &tensors, true, &[]).await;
        let target = format!("{BELOW}/run/1/files/{WHOLE}");
        let sound = served.get(&target).await.body;
        let packs: Vec<_> =
            served.files().into_keys().filter(|path| path.to_string_lossy().contains("/packs/")).collect();
        let (mut refused, mut random) = (0, XorShift::new(5));
        for pack in packs {
            let bytes = std::fs::read(&pack).unwrap();
            for _ in 0..12 {
                let at = random.below(bytes.len() as u64) as usize;
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                std::fs::write(&pack, &damaged).unwrap();
                // A service that has nothing in memory.
                let (address, _) = Served::another(&served.store_folder(), None, Limits::default(), false).await;
                let answer = ask(address, "GET", &target, &[], b"").await.unwrap();
                if answer.status == 200 {
                    assert!(sound.starts_with(&answer.body), "wrong bytes were sent: byte {at} of {}", pack.display());
                    assert_eq!(answer.whole, answer.body.len() == sound.len());
                    refused += u32::from(!answer.whole);
                } else {
                    assert_eq!((answer.status, answer.code()), (500, "integrity".to_owned()), "{answer:?}");
                    refused += 1;
                }
            }
            std::fs::write(&pack, &bytes).unwrap();
        }
        assert!(refused > 20, "{refused}: most bytes of a pack are content");
        assert!(served.get(&target).await.body == sound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_project_reads_no_file() {
    let ((reader, mine), (owner, all)) = (token(1, "mine", Access::Admin, None), token(2, "*", Access::Admin, None));
    let served = Served::with(Setup { tokens: vec![reader, owner], ..Setup::default() }).await;
    save(&served.store(Some(&all)), spec("p", "run", 1, 4), &tensors(), false, &[]).await;
    for path in ["files", "files/model.safetensors", "files/nothing"] {
        let ask = async |text: &str| {
            served.ask("GET", &format!("{BELOW}/run/1/{path}"), &[("Authorization", &bearer(text))], b"").await.status
        };
        assert_eq!((ask(&mine).await, served.get(&format!("{BELOW}/run/1/{path}")).await.status), (403, 401));
        assert_eq!(ask(&all).await, if path.ends_with("nothing") { 404 } else { 200 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_columns_reads_each_stored_byte_about_once() {
    let counted = FaultyStore::new(Arc::new(InMemory::new()));
    let quick = open(Arc::new(counted.clone()), OpenMode::Create).await.unwrap();
    // 16 MB in four slices, each of which has a little of each row; nothing is kept below.
    let mut random = XorShift::new(8);
    let data = random.bytes(4000 * 1000 * 4);
    let tensors = [Tensor { name: "w".to_owned(), dtype: Dtype::F32, shape: vec![4000, 1000], data }];
    save(&quick, spec("p", "run", 1, 4), &tensors, true, &[]).await;
    let url = serve(engine(Arc::new(counted.clone()), OpenMode::Existing).await.unwrap(), None, Limits::default());
    let address: SocketAddr = url.await.unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    let before = counted.bytes_got();
    let answer = ask(address, "GET", &format!("{BELOW}/run/1/files/{WHOLE}"), &[], b"").await.unwrap();
    check_file(&answer.body, &tensors);
    let read = counted.bytes_got() - before;
    assert!(read < 16_000_000 * 12 / 10, "{read} bytes of the store for a file of 16 MB");
}
