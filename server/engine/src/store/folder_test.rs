//! Tests of objects in a folder.

use super::incoming::WRITE_BACK_BYTES;
use super::*;

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn a_file_is_seen_when_it_is_whole_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let inner = folder.path().join("a/b/c");
    let path = inner.join("x");
    let piece = Bytes::from(vec![7; (WRITE_BACK_BYTES / 2 + 1) as usize]);
    let begin = |len| Incoming::new(Arc::clone(&store), path.clone(), 1, len).unwrap();
    let (mut first, mut second) = (begin(3 * piece.len() as u64), begin(5));
    for _ in 0..3 {
        first.write(piece.clone()).unwrap();
    }
    second.write(Bytes::from_static(b"other")).unwrap();
    assert_eq!(names(&inner), ["x#1", "x#2"]);
    assert_eq!(first.publish(Naming::New).unwrap(), Created::New);
    assert_eq!(names(&inner), ["x", "x#2"]);
    assert_eq!(second.publish(Naming::New).unwrap(), Created::Exists(3 * piece.len() as u64));
    assert_eq!(names(&inner), ["x"]);
    assert!(fs::read(&path).unwrap() == piece.repeat(3));
    let mut over = begin(10);
    over.write(Bytes::from_static(b"true bytes")).unwrap();
    assert_eq!(over.publish(Naming::Over).unwrap(), Created::New);
    assert_eq!((names(&inner), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"true bytes".to_vec()));
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let begin = |key| Incoming::new(Arc::clone(&store), store.file(key), 1, 4);
    let mut given_up = begin("x").unwrap();
    given_up.write(Bytes::from_static(b"half")).unwrap();
    drop(given_up);
    assert!(names(folder.path()).is_empty());
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(store.find(&store.file("file/x")).unwrap(), None);
    let error = begin("file/x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory);
    assert!(error.to_string().contains("file/x#1 can't be made"), "{error}");
}

#[test]
fn a_file_of_another_length_than_promised_has_no_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let piece = Bytes::from(vec![7; WRITE_BACK_BYTES as usize]);
    for promised in [WRITE_BACK_BYTES + 1, WRITE_BACK_BYTES - 1] {
        let mut incoming = Incoming::new(Arc::clone(&store), store.file("x"), 1, promised).unwrap();
        incoming.reserve();
        incoming.write(piece.clone()).unwrap();
        let Err(Unwritten::Body(error)) = incoming.publish(Naming::New) else { panic!() };
        assert_eq!(error.to_string(), format!("expected {promised} bytes, but 8388608 came"));
        assert!(names(folder.path()).is_empty());
    }
}

#[test]
fn pieces_of_any_size_are_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let whole: Bytes = (0..(11 << 20) + 77).map(|i: u32| (i * 31 + i / 255) as u8).collect::<Vec<_>>().into();
    // More of them between two borders than one call takes; one that ends on a border; one that passes several.
    let lens = std::iter::repeat_n(1000, 3000).chain([0, (4 << 20) - 3_000_000, 1, (5 << 20) + 3, 0]);
    let mut incoming = Incoming::new(Arc::clone(&store), store.file("x"), 1, whole.len() as u64).unwrap();
    let mut rest = whole.clone();
    for len in lens {
        incoming.write(rest.split_to(len)).unwrap();
    }
    incoming.write(rest).unwrap();
    assert_eq!(incoming.publish(Naming::New).unwrap(), Created::New);
    assert!(fs::read(store.file("x")).unwrap() == whole);
}

#[test]
fn what_was_not_written_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let bytes = Bytes::from(vec![7; 3 << 20]);
    let mut incoming = Incoming::new(Arc::clone(&store), store.file("x"), 1, bytes.len() as u64).unwrap();
    incoming.fail();
    let error = incoming.write(bytes).unwrap_err();
    assert!(error.to_string().contains("x#1 can't be written"), "{error}");
    assert!(matches!(incoming.publish(Naming::New), Err(Unwritten::Folder(_) | Unwritten::Body(_))));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_link_to_nowhere_is_an_error_and_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(folder.path().join("nowhere"), folder.path().join("packs")).unwrap();
    let store = Folder::new(folder.path().to_owned());
    for key in ["packs/x", "packs/5e/x"] {
        let error = Incoming::new(Arc::clone(&store), store.file(key), 1, 4).unwrap_err();
        assert!(error.to_string().contains("can't be made"), "{error}");
    }
}

#[test]
fn names_are_kept_up_to_the_store_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let file = store.file("a/b/x");
    assert!(store.keep([file.as_path()]).is_err(), "there is no such folder");
    assert!(store.kept.lock().unwrap().is_empty());
    fs::create_dir_all(folder.path().join("a/b")).unwrap();
    store.keep([file.as_path()]).unwrap();
    let known = ["a", "a/b", "a/b/x"].map(|key| store.file(key));
    assert_eq!(*store.kept.lock().unwrap(), HashSet::from(known));
    fs::remove_dir(folder.path().join("a/b")).unwrap();
    store.keep([file.as_path()]).unwrap();
    assert!(store.keep([store.file("a/b/y").as_path()]).is_err(), "what is not known is synced");
    store.know((0..KEPT_NAMES).map(|n| store.file(&n.to_string())));
    store.know([file]);
    assert_eq!(store.kept.lock().unwrap().len(), 1, "all are forgotten at the most that are remembered");
}

#[test]
fn something_that_is_no_file_is_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    fs::create_dir_all(store.file("packs/x")).unwrap();
    let error = store.find(&store.file("packs/x")).unwrap_err();
    assert!(error.to_string().contains("packs/x is there and no object"), "{error}");
}
