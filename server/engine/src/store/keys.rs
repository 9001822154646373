//! Every key of the store, built here and nowhere else.
//!
//! Must never read or write. The layout is in the README.

use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::TxnId;

/// The marker at the root of a store.
pub(crate) const MARKER: &str = "gigastore.json";

/// The announcement of a save, and its end, in the save's folder.
pub(crate) const BEGIN: &str = "begin.json";
pub(crate) const ENDED: &str = "ended.json";

/// The folder of all projects.
pub(crate) const PROJECTS: &str = "projects";

/// The folder of a project.
pub(crate) fn project(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}")
}

/// The log record `seq`. Twenty digits hold every u64, so that keys sort as numbers.
pub(crate) fn record(project: &ProjectName, seq: u64) -> String {
    format!("{}/{seq:020}.json", log(project))
}

/// The folder of the log.
pub(crate) fn log(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}/log")
}

/// The folder of folded states.
pub(crate) fn folded_states(project: &ProjectName) -> String {
    format!("{}/folded", log(project))
}

/// The state folded up to record `seq`.
pub(crate) fn folded(project: &ProjectName, seq: u64) -> String {
    format!("{}/{seq:020}", folded_states(project))
}

/// The record number of a folded state's key.
pub(crate) fn folded_seq(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    (name.len() == 20).then(|| name.parse().ok())?
}

/// A pack, blob or manifest.
pub(crate) fn object(project: &ProjectName, kind: ObjectKind, stored: &Stored) -> String {
    format!("{PROJECTS}/{project}/{}", stored.key(kind))
}

/// The folder of the marks of damaged objects.
pub(crate) fn damaged_objects(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}/damaged")
}

/// The mark of a damaged object.
pub(crate) fn damaged(project: &ProjectName, kind: ObjectKind, stored: &Stored) -> String {
    format!("{}/{}/{stored}.json", damaged_objects(project), kind_folder(kind))
}

/// Kind and name of the object that a mark is about, from the mark's key.
pub(crate) fn damaged_of(key: &str) -> Option<(ObjectKind, Stored)> {
    let mut parts = key.rsplit('/');
    let stored = parts.next()?.strip_suffix(".json")?.parse().ok()?;
    let folder = parts.next()?;
    Some((ObjectKind::ALL.into_iter().find(|kind| kind_folder(*kind) == folder)?, stored))
}

/// The folder that objects of a kind lie in.
pub(crate) fn kind_folder(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Pack => "packs",
        ObjectKind::Blob => "blobs",
        ObjectKind::Manifest => "manifests",
    }
}

/// When which object was verified last.
pub(crate) fn scrub_times(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}/scrub/times.json")
}

/// The folder of a project's objects of one kind.
pub(crate) fn objects(project: &ProjectName, kind: ObjectKind) -> String {
    format!("{PROJECTS}/{project}/{}", kind_folder(kind))
}

/// The object that a key is of; `None` where it is not exactly the key of one.
pub(crate) fn object_of(project: &ProjectName, kind: ObjectKind, key: &str) -> Option<Stored> {
    let (name, _) = key.rsplit('/').next()?.rsplit_once('.')?;
    let stored = name.parse().ok()?;
    (object(project, kind, &stored) == key).then_some(stored)
}

/// An object by which a store is tried out; deleted at once.
pub(crate) fn probe(id: &str) -> String {
    format!("probes/{id}")
}

/// The folder of all saves.
pub(crate) fn saves(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}/saves")
}

/// The save that a key belongs to, and what stands after its folder.
pub(crate) fn save_of<'k>(project: &ProjectName, key: &'k str) -> Option<(TxnId, &'k str)> {
    let (save, rest) = key.strip_prefix(&saves(project))?.strip_prefix('/')?.split_once('/')?;
    Some((TxnId(save.parse().ok()?), rest))
}

/// The announcement of a save.
pub(crate) fn save_begin(project: &ProjectName, save: TxnId) -> String {
    format!("{}/{save}/{BEGIN}", saves(project))
}

/// The end of a save: nobody needs its parts any more.
pub(crate) fn save_ended(project: &ProjectName, save: TxnId) -> String {
    format!("{}/{save}/{ENDED}", saves(project))
}

/// The folder of a save's parts.
pub(crate) fn save_parts(project: &ProjectName, save: TxnId) -> String {
    format!("{}/{save}/parts", saves(project))
}

/// One rank's part. Its digest is in the key: the part checks itself, and two different parts of one rank show.
pub(crate) fn save_part(project: &ProjectName, save: TxnId, rank: u32, blake3: Digest) -> String {
    format!("{}/{rank:07}.{blake3}.parquet", save_parts(project, save))
}

/// The rank and digest of a part's key.
pub(crate) fn part_of(key: &str) -> Option<(u32, Digest)> {
    let name = key.rsplit('/').next()?.strip_suffix(".parquet")?;
    let (rank, digest) = name.split_once('.')?;
    Some((rank.parse().ok()?, digest.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        let p: ProjectName = "p".parse().unwrap();
        let save = TxnId(Digest::of(b"s"));
        assert_eq!(part_of(&save_part(&p, save, 7, save.0)), Some((7, save.0)));
        assert_eq!(folded_seq(&folded(&p, 42)), Some(42));
        assert_eq!(folded_seq("projects/p/log/folded/x"), None);
        assert_eq!(part_of("projects/p/saves/x/parts/1.parquet"), None);
        let stored = Stored { digest: save.0, epoch: 3 };
        for kind in ObjectKind::ALL {
            assert_eq!(damaged_of(&damaged(&p, kind, &stored)), Some((kind, stored)));
        }
        assert_eq!(damaged_of("projects/p/damaged/logs/x.json"), None);
        let key = save_begin(&p, save);
        assert_eq!(save_of(&p, &key), Some((save, "begin.json")));
        assert_eq!(save_of(&p, "projects/p/saves/x/begin.json"), None);
        for kind in ObjectKind::ALL {
            let key = object(&p, kind, &stored);
            assert!(key.starts_with(&format!("{}/", objects(&p, kind))));
            assert_eq!(object_of(&p, kind, &key), Some(stored));
            assert_eq!(object_of(&p, kind, &format!("{key}#1")), None);
            assert_eq!(object_of(&p, kind, &key.replace("/p/", "/q/")), None);
        }
        assert_eq!(record(&p, u64::MAX), "projects/p/log/18446744073709551615.json");
    }
}
