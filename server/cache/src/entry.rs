//! The file of a block: who it is, how long, a seal over both and the bytes, and the bytes.
//!
//! ```text
//! 0..8    "GSCACHE1"
//! 8..40   the block's name
//! 40..48  bytes of the block, little-endian
//! 48..80  BLAKE3 over all of the above and the bytes
//! 80..    the bytes
//! ```
//! Must never hand on a byte before the seal was checked, nor take memory that a file asks for.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::ObjectKind;

const MAGIC: &[u8; 8] = b"GSCACHE1";

/// Bytes before the seal, and before the block.
const SEALED_BYTES: usize = 48;
pub(crate) const HEAD_BYTES: usize = SEALED_BYTES + 32;

/// Bytes that are read at once: they stay in a core's own cache until they are hashed.
const PIECE_BYTES: u64 = 256 << 10;

/// The name of a block: the hash of what it is a block of. The epoch of an object's upload is no part of it, because
/// its content does not depend on it; its project is: projects keep their content to themselves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name(Digest);

impl Name {
    pub(crate) fn of(project: &ProjectName, kind: ObjectKind, object: Digest, block: u64) -> Self {
        let kind = match kind {
            ObjectKind::Pack => 1,
            ObjectKind::Blob => 2,
            ObjectKind::Manifest => 3,
        };
        // Fields of fixed length first, so that no two blocks have one text.
        let mut hasher = blake3::Hasher::new();
        hasher.update(MAGIC).update(&[kind]).update(object.as_bytes()).update(&block.to_le_bytes());
        Self(hasher.update(project.as_str().as_bytes()).finalize().into())
    }

    /// Returns where the block lies below the directory: 256 folders, so that none grows to millions of files.
    pub(crate) fn path(&self) -> PathBuf {
        let hex = self.0.to_string();
        PathBuf::from(&hex[..2]).join(hex)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.short())
    }
}

/// Returns what comes before a block's bytes in its file.
pub(crate) fn head(name: &Name, bytes: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let (sealed, seal) = head.split_at_mut(SEALED_BYTES);
    sealed[..8].copy_from_slice(MAGIC);
    sealed[8..40].copy_from_slice(name.0.as_bytes());
    sealed[40..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    seal.copy_from_slice(blake3::Hasher::new().update(sealed).update(bytes).finalize().as_bytes());
    head
}

/// Reads the block `name` of `len` bytes; nothing where the file is not exactly that.
pub(crate) fn read(mut file: impl Read, name: &Name, len: u64) -> io::Result<Option<Bytes>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let Some((sealed, seal)) = head.split_at_checked(SEALED_BYTES).filter(|(_, seal)| seal.len() == 32) else {
        return Ok(None);
    };
    if sealed[..8] != *MAGIC || sealed[8..40] != *name.0.as_bytes() || sealed[40..] != len.to_le_bytes() {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(sealed);
    // One byte more, to see that none follows.
    let mut rest = file.take(len + 1);
    let mut bytes = Vec::with_capacity(len as usize + 1);
    loop {
        let before = bytes.len();
        if rest.by_ref().take(PIECE_BYTES).read_to_end(&mut bytes)? == 0 {
            break;
        }
        hasher.update(&bytes[before..]);
    }
    let sound = bytes.len() as u64 == len && hasher.finalize() == *<&[u8; 32]>::try_from(seal).unwrap_or(&[0; 32]);
    Ok(sound.then(|| bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(block: u64) -> Name {
        Name::of(&"p".parse().unwrap(), ObjectKind::Pack, Digest::of(b"x"), block)
    }

    #[test]
    fn only_the_very_file_is_taken() {
        let bytes: Vec<u8> = (0..600_000u32).map(|i| (i * 7) as u8).collect();
        let file = [&head(&name(3), &bytes)[..], &bytes].concat();
        let len = bytes.len() as u64;
        assert_eq!(read(&file[..], &name(3), len).unwrap().unwrap(), bytes);
        assert!(read(&file[..], &name(4), len).unwrap().is_none(), "another block's");
        assert!(read(&file[..], &name(3), len - 1).unwrap().is_none(), "a longer block");
        for cut in [0, 1, 47, 48, 79, 80, 81, file.len() / 2, file.len() - 1] {
            assert!(read(&file[..cut], &name(3), len).unwrap().is_none(), "cut at {cut}");
        }
        assert!(read(&[&file[..], b"x"].concat()[..], &name(3), len).unwrap().is_none(), "bytes behind it");
        for at in (0..HEAD_BYTES).chain([HEAD_BYTES, file.len() / 2, file.len() - 1]) {
            let mut flipped = file.clone();
            flipped[at] ^= 0x10;
            assert!(read(&flipped[..], &name(3), len).unwrap().is_none(), "byte {at} flipped");
        }
        assert!(read(&vec![0; file.len()][..], &name(3), len).unwrap().is_none(), "zeros");
    }

    #[test]
    fn an_empty_block_has_a_file_too() {
        let file = head(&name(0), b"");
        assert_eq!(read(&file[..], &name(0), 0).unwrap().unwrap(), "");
    }

    #[test]
    fn every_part_of_what_a_block_is_makes_its_name() {
        let (p, q): (ProjectName, ProjectName) = ("p".parse().unwrap(), "q".parse().unwrap());
        let (x, y) = (Digest::of(b"x"), Digest::of(b"y"));
        let names = [
            Name::of(&p, ObjectKind::Pack, x, 0),
            Name::of(&q, ObjectKind::Pack, x, 0),
            Name::of(&p, ObjectKind::Blob, x, 0),
            Name::of(&p, ObjectKind::Manifest, x, 0),
            Name::of(&p, ObjectKind::Pack, y, 0),
            Name::of(&p, ObjectKind::Pack, x, 1),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }
}
