//! Every key of the store, built here and nowhere else.
//!
//! Must never read or write. The layout is in the README.

use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::TxnId;

/// The marker at the root of a store.
pub(crate) const MARKER: &str = "gigastore.json";

/// The folder of all projects.
pub(crate) const PROJECTS: &str = "projects";

/// The folder of a project.
pub(crate) fn project(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}")
}

/// The log record `seq`. Twenty digits hold every u64, so that keys sort as numbers.
pub(crate) fn record(project: &ProjectName, seq: u64) -> String {
    format!("{PROJECTS}/{project}/log/{seq:020}.json")
}

/// The folder of folded states.
pub(crate) fn folded_states(project: &ProjectName) -> String {
    format!("{PROJECTS}/{project}/log/folded")
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
    let kinds = [ObjectKind::Pack, ObjectKind::Blob, ObjectKind::Manifest];
    Some((kinds.into_iter().find(|kind| kind_folder(*kind) == folder)?, stored))
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

/// The name of the object of a pack's, file's or manifest's key.
pub(crate) fn stored_of(key: &str) -> Option<Stored> {
    let name = key.rsplit('/').next()?;
    name.strip_suffix(".safetensors").or_else(|| name.strip_suffix(".parquet"))?.parse().ok()
}

/// An object by which a store is tried out; deleted at once.
pub(crate) fn probe(id: &str) -> String {
    format!("probes/{id}")
}

/// The announcement of a save.
pub(crate) fn save_begin(project: &ProjectName, save: TxnId) -> String {
    format!("{PROJECTS}/{project}/saves/{save}/begin.json")
}

/// The end of a save: nobody needs its parts any more.
pub(crate) fn save_ended(project: &ProjectName, save: TxnId) -> String {
    format!("{PROJECTS}/{project}/saves/{save}/ended.json")
}

/// The folder of a save's parts.
pub(crate) fn save_parts(project: &ProjectName, save: TxnId) -> String {
    format!("{PROJECTS}/{project}/saves/{save}/parts")
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
        let stored = Stored { digest: save.0, epoch: 7 };
        for kind in [ObjectKind::Pack, ObjectKind::Blob, ObjectKind::Manifest] {
            assert_eq!(damaged_of(&damaged(&p, kind, &stored)), Some((kind, stored)));
            assert_eq!(stored_of(&object(&p, kind, &stored)), Some(stored));
            assert!(object(&p, kind, &stored).contains(&format!("/{}/", kind_folder(kind))));
        }
        assert_eq!(damaged_of("projects/p/damaged/logs/x.json"), None);
        assert_eq!(record(&p, u64::MAX), "projects/p/log/18446744073709551615.json");
    }
}
