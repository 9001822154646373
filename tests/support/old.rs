//! Saves as older clients made them: in packs of version 1, whose groups are four times as long as those of today.
//!
//! Must never write a pack that such a client would not have written.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use gigastore_client::checkpoint::{Compression, SaveSpec};
use gigastore_engine::{Engine, PackBody};
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::PACK_1_GROUP_BYTES;
use gigastore_formats::manifest::part::{PartMeta, PartRow, write_part};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::codec::encode_group;
use gigastore_formats::pack::{Coding, PackEntry, PackHeader, PackSlice, PackVersion};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::slice::{Place, SliceId, SliceRow};
use gigastore_formats::verified::StreamHasher;
use gigastore_formats::wire::{FinishRequest, SaveRequest};

use crate::model::Tensor;

/// Returns a whole tensor as a slice, and its stored bytes.
fn slice_of(tensor: &Tensor, compress: Compression) -> Result<(PackSlice, Bytes), Box<dyn Error>> {
    let area = TensorBox::whole(&tensor.shape)?;
    let slice = SliceId::tensor(&tensor.name, tensor.dtype, &tensor.shape, area)?;
    let mut hasher = StreamHasher::in_groups(PACK_1_GROUP_BYTES);
    hasher.update(&tensor.data);
    let tree = hasher.finish();
    if compress == Compression::Off || tensor.data.is_empty() {
        return Ok((PackSlice { slice, tree, coding: Coding::Raw }, tensor.data.clone()));
    }
    let groups = tensor.data.chunks(PACK_1_GROUP_BYTES as usize);
    let frames: Vec<Vec<u8>> = groups.map(|group| encode_group(tensor.dtype, group)).collect();
    let stored = frames.concat();
    let coding = Coding::ZstdPlanes {
        stored: Digest::of(&stored),
        frames: frames.iter().map(|frame| frame.len() as u64).collect(),
    };
    Ok((PackSlice { slice, tree, coding }, stored.into()))
}

/// Commits tensors as the one rank of `spec`, all in one pack.
pub async fn save_old(
    engine: &Engine,
    SaveSpec { project, run, step, compress, .. }: SaveSpec,
    tensors: &[Tensor],
) -> Result<(), Box<dyn Error>> {
    let save = SaveRequest { project, run, step, world_size: 1, attempt: "old".to_owned() };
    let session = engine.begin_save(&save).await?;
    let slices = tensors.iter().map(|tensor| slice_of(tensor, compress)).collect::<Result<Vec<_>, _>>()?;
    let all = slices.iter().map(|(slice, _)| slice.clone()).collect();
    let (header, head) = PackHeader::build_as(PackVersion::One, all)?;
    let mut body = vec![0; (header.object_len() - header.header_len()) as usize];
    for entry in header.entries() {
        let of_entry = slices.iter().filter(|(slice, _)| slice.slice == entry.slice.slice);
        for (_, stored) in of_entry {
            body[(entry.stored.start() - header.header_len()) as usize..][..stored.len()].copy_from_slice(stored);
        }
    }
    let pack = Stored { digest: header.name(), epoch: session.epoch };
    engine.put_pack(&save.project, pack, head, PackBody::Whole(vec![body.into()])).await?;
    let row = |entry: &Arc<PackEntry>| {
        let (offset, stored_len) = (entry.stored.start(), entry.stored.len());
        let codec = entry.slice.coding.codec();
        let place = Place { pack: header.name(), header_len: header.header_len(), offset, stored_len, codec };
        SliceRow { slice: entry.slice.slice.clone(), blake3: entry.slice.tree.root(), place: Some(place) }
    };
    let rows: Vec<PartRow> = header.entries().iter().map(row).collect();
    let meta = PartMeta::of_rank(0, 1);
    engine.put_part(&save.project, session.save, 0, write_part(&meta, &rows)?.into()).await?;
    let finish = FinishRequest { save, deadline_ms: 0, waited_ms: 0, tag: None };
    engine.finish_save(&finish).await?;
    Ok(())
}
