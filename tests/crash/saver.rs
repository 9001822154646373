//! A rank in a process of its own: saves its share of a seeded model, and kills itself where it is told to.
//!
//! `saver FOLDER RANK RANKS STEP ATTEMPT [before|after N]`; prints how many packs it created. Must never share anything
//! with another process but the store's folder.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::transfer::progress::Progress;
use gigastore_engine::store::OpenMode;
use gigastore_tests::faulty::{FaultyStore, Op, Verdict, plan};
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::{open, slices};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

type Failed = Box<dyn std::error::Error>;

/// Small packs, so that a save has several.
const PACK_BYTES: u64 = 16 << 10;

#[tokio::main]
async fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()).await {
        Ok(packs) => {
            println!("{packs}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("saver: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<usize, Failed> {
    let (common, kill) = arguments.split_at_checked(5).ok_or("usage: saver FOLDER RANK RANKS STEP ATTEMPT [WHEN N]")?;
    let (rank, ranks, step) = (common[1].parse()?, common[2].parse()?, common[3].parse()?);
    let plan = match kill {
        [] => plan::pass(),
        [when, n] if when == "before" => plan::at(n.parse()?, Verdict::Kill),
        [when, n] if when == "after" => plan::at(n.parse()?, Verdict::KillAfter),
        _ => return Err("WHEN is before or after".into()),
    };
    let local = LocalFileSystem::new_with_prefix(&common[0])?.with_fsync(true);
    let faulty = FaultyStore::with_plan(Arc::new(local), plan);
    let store = open(Arc::new(faulty.clone()) as Arc<dyn ObjectStore>, OpenMode::Create).await?;
    let mut spec = SaveSpec::new("p".parse()?, "run".parse()?, step, ranks);
    spec.attempt = Some(common[4].clone());
    spec.pack_bytes = PACK_BYTES;
    spec.deadline = Duration::from_secs(60);
    let save = store.begin_save(spec, Progress::default()).await?;
    save.rank(rank, slices(&transformer(step, Size::TINY), rank, ranks)).await?;
    save.finish().await?;
    let created = |op: &&gigastore_tests::faulty::Operation| op.op == Op::Create && op.path.contains("/packs/");
    Ok(faulty.log().iter().filter(created).count())
}
