//! Tests of the faulty store: a double that lies about its faults would make every other test worthless.

use std::error::Error as _;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Arc;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{CopyOptions, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use super::{Failure, FaultyStore, Op, Plan, Verdict, plan};

fn store(plan: Plan) -> FaultyStore {
    FaultyStore::with_plan(Arc::new(InMemory::new()), plan)
}

async fn create(store: &FaultyStore, path: &Path, data: &'static str) -> object_store::Result<()> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(path, data.into(), options).await.map(|_| ())
}

#[tokio::test]
async fn operations_are_numbered_recorded_and_counted() {
    let store = store(plan::pass());
    let (a, b) = (Path::from("x/a"), Path::from("x/b"));
    create(&store, &a, "0123456789").await.unwrap();
    assert_eq!(store.get_range(&a, 2..5).await.unwrap(), "234");
    store.copy_opts(&a, &b, CopyOptions::default()).await.unwrap();
    assert_eq!(store.head(&b).await.unwrap().size, 10);
    assert_eq!(store.list(Some(&Path::from("x"))).count().await, 2);
    store.delete(&b).await.unwrap();
    let log: Vec<_> = store.log().into_iter().map(|o| (o.n, o.op, o.path, o.bytes, o.range)).collect();
    let expected = [
        (1, Op::Create, "x/a", 10, None),
        (2, Op::Get, "x/a", 3, Some(2..5)),
        (3, Op::Copy, "x/b", 0, None),
        (4, Op::Head, "x/b", 0, None),
        (5, Op::List, "x", 0, None),
        (6, Op::Delete, "x/b", 0, None),
    ];
    assert_eq!(log, expected.map(|(n, op, path, bytes, range)| (n, op, path.to_owned(), bytes, range)));
    assert_eq!((store.bytes_put(), store.bytes_got(), store.count(Op::Get)), (10, 3, 1));
}

#[tokio::test]
async fn a_failure_before_leaves_nothing_and_one_after_leaves_all() {
    let path = Path::from("a");
    let before = store(plan::at(1, Verdict::FailBefore(Failure::AlreadyExists)));
    assert!(matches!(create(&before, &path, "mine").await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(before.get(&path).await, Err(Error::NotFound { .. })));
    assert_eq!(before.bytes_put(), 0);

    let after = store(plan::at(1, Verdict::FailAfter(Failure::Unavailable)));
    assert!(matches!(create(&after, &path, "mine").await, Err(Error::Generic { .. })));
    assert_eq!(after.get(&path).await.unwrap().bytes().await.unwrap(), "mine");
    assert_eq!(after.bytes_put(), 4);
}

#[tokio::test]
async fn errors_of_the_system_lie_in_the_chain_of_sources() {
    for kind in [Failure::STORAGE_FULL, Failure::READ_ONLY, Failure::LOCAL_PERMISSION_DENIED, Failure::TIMED_OUT] {
        let Failure::Io(expected) = kind else { panic!("{kind:?} is no error of the system") };
        let error = create(&store(plan::starting_at(1, Verdict::FailBefore(kind))), &Path::from("a"), "").await;
        let error = error.unwrap_err();
        let mut link = error.source();
        let found = std::iter::from_fn(|| {
            let this = link?;
            link = this.source();
            Some(this)
        })
        .find_map(|source| source.downcast_ref::<io::Error>());
        assert_eq!(found.map(io::Error::kind), Some(expected), "{error}");
    }
    let denied =
        create(&store(plan::at(1, Verdict::FailBefore(Failure::PermissionDenied))), &Path::from("a"), "").await;
    assert!(matches!(denied, Err(Error::PermissionDenied { .. })));
}

#[tokio::test]
async fn bodies_are_cut_and_damaged_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let inners: [Arc<dyn ObjectStore>; 2] =
        [Arc::new(InMemory::new()), Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap())];
    for inner in inners {
        let store = FaultyStore::new(inner);
        let path = Path::from("a");
        create(&store, &path, "abcdefgh").await.unwrap();
        store.set_plan(plan::on(Op::Get, "a", 1, Verdict::Truncate(3)));
        let answer = store.get(&path).await.unwrap();
        assert_eq!(answer.range, 0..8);
        assert_eq!(answer.bytes().await.unwrap(), "abc");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "abcdefgh");
        store.set_plan(plan::on(Op::Get, "a", 1, Verdict::Flip(1)));
        assert_eq!(store.get_range(&path, 4..8).await.unwrap(), "eggh");
        assert_eq!(store.bytes_got(), 3 + 8 + 4);
    }
}

#[tokio::test]
async fn parts_of_an_upload_can_fail_and_be_sent_again() {
    let store = store(plan::on(Op::Part, "big", 1, Verdict::FailBefore(Failure::TIMED_OUT)));
    let path = Path::from("big");
    let mut upload = store.put_multipart(&path).await.unwrap();
    assert!(upload.put_part("one".into()).await.is_err());
    upload.put_part("one".into()).await.unwrap();
    upload.put_part("two".into()).await.unwrap();
    store.set_plan(plan::on(Op::Complete, "big", 1, Verdict::FailAfter(Failure::Unavailable)));
    assert!(upload.complete().await.is_err());
    store.set_plan(plan::pass());
    assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "onetwo");
    assert_eq!((store.bytes_put(), store.count(Op::Part)), (6, 3));
}

#[tokio::test]
async fn a_listing_can_break_off_at_its_end() {
    let store = store(plan::on(Op::List, "", 1, Verdict::FailAfter(Failure::Unavailable)));
    create(&store, &Path::from("a"), "").await.unwrap();
    let items: Vec<_> = store.list(None).collect().await;
    assert!(matches!(&items[..], [Ok(_), Err(_)]), "{items:?}");
    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

/// Runs in a child process: writes `first` and `second`, being killed as the environment says.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(folder) = std::env::var("FAULTY_CHILD_FOLDER") else { return };
    let after = std::env::var_os("FAULTY_CHILD_AFTER").is_some();
    let verdict = if after { Verdict::KillAfter } else { Verdict::Kill };
    let inner = LocalFileSystem::new_with_prefix(folder).unwrap();
    let store = FaultyStore::with_plan(Arc::new(inner), plan::at(2, verdict));
    create(&store, &Path::from("first"), "1").await.unwrap();
    create(&store, &Path::from("second"), "2").await.unwrap();
    create(&store, &Path::from("third"), "3").await.unwrap();
}

#[test]
fn a_kill_ends_the_process_before_or_after_the_effect() {
    for after in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "faulty::faulty_test::child_that_is_killed"]);
        child.env("FAULTY_CHILD_FOLDER", folder.path());
        if after {
            child.env("FAULTY_CHILD_AFTER", "1");
        }
        let output = child.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        let there = |name: &str| folder.path().join(name).exists();
        assert_eq!((there("first"), there("second"), there("third")), (true, after, false));
    }
}
