//! Tests of objects in a folder.

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
    let piece = vec![7; (WRITE_BACK_BYTES / 2 + 1) as usize];
    let begin = |len| Incoming::new(Arc::clone(&store), path.clone(), 1, len).unwrap();
    let (mut first, mut second) = (begin(3 * piece.len() as u64), begin(5));
    for _ in 0..3 {
        first.write(&piece).unwrap();
    }
    second.write(b"other").unwrap();
    assert_eq!(names(&inner), ["x#1", "x#2"]);
    assert_eq!(first.publish(Naming::New).unwrap(), Created::New);
    assert_eq!(names(&inner), ["x", "x#2"]);
    assert_eq!(second.publish(Naming::New).unwrap(), Created::Exists(3 * piece.len() as u64));
    assert_eq!(names(&inner), ["x"]);
    assert!(fs::read(&path).unwrap() == piece.repeat(3));
    let mut over = begin(10);
    over.write(b"true bytes").unwrap();
    assert_eq!(over.publish(Naming::Over).unwrap(), Created::New);
    assert_eq!((names(&inner), fs::read(&path).unwrap()), (vec!["x".to_owned()], b"true bytes".to_vec()));
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::new(folder.path().to_owned());
    let begin = |key| Incoming::new(Arc::clone(&store), store.file(key), 1, 4);
    let mut given_up = begin("x").unwrap();
    given_up.write(b"half").unwrap();
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
    let piece = vec![7; WRITE_BACK_BYTES as usize];
    for promised in [WRITE_BACK_BYTES + 1, WRITE_BACK_BYTES - 1] {
        let mut incoming = Incoming::new(Arc::clone(&store), store.file("x"), 1, promised).unwrap();
        incoming.reserve();
        incoming.write(&piece).unwrap();
        let Err(Unwritten::Body(error)) = incoming.publish(Naming::New) else { panic!() };
        assert_eq!(error.to_string(), format!("expected {promised} bytes, but 8388608 came"));
        assert!(names(folder.path()).is_empty());
    }
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
