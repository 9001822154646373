//! The light index of a large version: a million row groups, in a process of its own, whose time and memory are asked.

use std::process::Command;
use std::time::{Duration, Instant};

use gigastore_client::ambient::SystemAmbient;
use gigastore_client::store::Store;
use gigastore_engine::Engine;
use gigastore_engine::store::OpenMode;
use gigastore_formats::range::ByteRange;
use gigastore_tests::groups::ManyGroups;
use gigastore_tests::memory::own_kib;

/// Time to open: 100 ms. A debug build, on a machine that runs other tests, gets ten times as much; the release figure
/// is in `benches/RESULTS.md`.
const MOST_TIME: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 100 });

/// Memory of the whole process that opens it, in KiB.
const MOST_KIB: u64 = 64 << 10;

/// Where the child process finds its store.
const STORE: &str = "GIGASTORE_TEST_INDEX";

/// What the child process does: opens the version, and looks at it.
async fn open(url: &str) {
    let before = own_kib("VmHWM");
    let store = Store::open(url, gigastore_client::store::OpenMode::Existing).await.unwrap();
    let (mut times, mut peak) = (Vec::new(), 0);
    for _ in 0..5 {
        let started = Instant::now();
        let dataset = store.dataset_index(&"p/data".parse().unwrap()).await.unwrap();
        times.push(started.elapsed());
        peak = if peak == 0 { own_kib("VmHWM") } else { peak };
        let index = dataset.index();
        assert_eq!((index.files.len(), index.rows.len(), index.tokens.len()), (1000, 1_000_000, 1_000_000));
        assert_eq!((index.files[999].first_group, index.groups(999)), (999_000, 999_000..1_000_000));
        assert!(index.tokens.iter().zip(&index.rows).all(|(tokens, rows)| tokens / rows >= 700));
    }
    let first = times[0];
    times.sort_unstable();
    println!("opened first in {first:.1?}, median {:.1?}; peak {peak} KiB, {before} before", times[2]);
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert!(times[2] < MOST_TIME, "{times:.1?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_row_groups_open_at_once() {
    if let Ok(url) = std::env::var(STORE) {
        return open(&url).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/store", folder.path().display());
    let engine = Engine::open(&url.parse().unwrap(), OpenMode::Create, [], SystemAmbient::shared()).await.unwrap();
    ManyGroups::MILLION.commit(&engine, &"p".parse().unwrap(), &"data".parse().unwrap()).await.unwrap();
    drop(engine);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["index::a_million_row_groups_open_at_once", "--exact", "--nocapture"]).env(STORE, &url);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", said.lines().find(|line| line.contains("opened first in")).unwrap());

    // What the index leaves out is there when it is asked for.
    let store = Store::open(&url, gigastore_client::store::OpenMode::Existing).await.unwrap();
    let dataset = store.dataset_index(&"p/data".parse().unwrap()).await.unwrap();
    let row = dataset.file(123).await.unwrap();
    assert_eq!((row.path.as_str(), row.row_groups.len()), ("train/part-00123.parquet", 1000));
    assert_eq!(row.tokens, dataset.index().tokens[dataset.index().groups(123)]);
    let content = ManyGroups::content();
    let ranges = [(0, 10), (1 << 20, 2 << 20), (5, 300_000), (7, 7)].map(|(a, b)| ByteRange::new(a, b).unwrap());
    let read = dataset.read_ranges(&row, &ranges).await.unwrap();
    for (bytes, range) in read.iter().zip(ranges) {
        assert!(*bytes == content[range.start() as usize..range.end() as usize], "{range}");
    }
    let past = dataset.read_ranges(&row, &[ByteRange::new(0, (2 << 20) + 1).unwrap()]).await.unwrap_err();
    assert!(past.to_string().contains("does not lie inside"), "{past}");
    assert!(dataset.file(1000).await.unwrap_err().to_string().contains("no file"));
}
