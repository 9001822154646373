//! Checkpoints of very many rows, made from little content: each row has a name and a box of its own and lies in one of
//! a few packs, so that a million rows take 128 MiB of store and not 4 GiB.
//!
//! Must never commit what an engine would not: packs are uploaded, parts are put and joined as a training job's are.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use gigastore_engine::{Engine, FinishError, PackBody, SaveError, UploadError};
use gigastore_formats::manifest::ManifestError;
use gigastore_formats::manifest::part::{PartMeta, PartRow, write_part};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::{Coding, PackError, PackHeader, PackSlice};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{Codec, Place, SliceId, SliceRow};
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{Committed, FinishRequest, SaveRequest};

use crate::model::XorShift;

/// Bytes of every slice.
pub const SLICE_BYTES: u64 = 4096;

/// Type of every tensor.
pub const DTYPE: Dtype = Dtype::BF16;

/// Rows of a slice, and elements of each.
const SLICE_ROWS: u64 = 2;
const COLUMNS: u64 = SLICE_BYTES / SLICE_ROWS / 2;

/// Packs, and slices of each: 8 MiB of content a pack. Neighbouring ranks lie in different packs, as they do in a
/// checkpoint of a training job.
const PACKS: u64 = 16;
const PACK_SLICES: u64 = 2048;

/// Slices between those that two ranks of one pack have of one tensor, so that no two rows of a tensor share content.
const RANK_STRIDE: u64 = 7;

/// Parts, and packs, that are put at once.
const PUTS_IN_FLIGHT: usize = 8;

/// A checkpoint of `tensors` tensors, each cut into one slice a rank, and one whole tensor between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManyRows {
    /// Sharded tensors.
    pub tensors: u64,
    /// Ranks: at most 4,096.
    pub ranks: u32,
}

/// Why the checkpoint could not be committed.
#[derive(Debug, thiserror::Error)]
pub enum ManyRowsError {
    /// A pack could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A pack could not be stored.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// A part could not be made.
    #[error(transparent)]
    Part(#[from] ManifestError),
    /// The save could not be begun, or a part not be put.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The save could not be finished.
    #[error(transparent)]
    Finish(#[from] Arc<FinishError>),
}

impl ManyRows {
    /// 1,000,001 rows: 2,000 tensors of 500 ranks, and a whole one.
    pub const MILLION: Self = Self { tensors: 2000, ranks: 500 };

    /// Returns the number of rows.
    pub fn rows(&self) -> u64 {
        self.tensors * u64::from(self.ranks) + 1
    }

    /// Returns the name of sharded tensor `index`.
    pub fn name(&self, index: u64) -> String {
        format!("model.layers.{index:04}.weight")
    }

    /// Returns the name of the whole tensor of [`SLICE_BYTES`], which stands in the middle of the manifest.
    pub fn whole_name(&self) -> String {
        format!("model.layers.{:04}.norm", self.tensors / 2)
    }

    /// Returns the shape of each sharded tensor.
    pub fn shape(&self) -> Vec<u64> {
        vec![u64::from(self.ranks) * SLICE_ROWS, COLUMNS]
    }

    /// Returns the box that `rank` has of each sharded tensor.
    pub fn area(&self, rank: u32) -> TensorBox {
        TensorBox::new(vec![u64::from(rank) * SLICE_ROWS, 0], vec![SLICE_ROWS, COLUMNS]).expect("small numbers")
    }

    /// Returns the content of the slice that `rank` has of sharded tensor `index`; that of rank 0 of the tensor after
    /// the last is the whole tensor's.
    pub fn content(&self, index: u64, rank: u32) -> Bytes {
        let (pack, slice) = self.source(index, rank);
        content(pack, slice)
    }

    /// Commits the checkpoint as `run`@`step`, with a part of every rank.
    pub async fn commit(
        &self,
        engine: &Engine,
        project: &ProjectName,
        run: &Name,
        step: u64,
    ) -> Result<Committed, ManyRowsError> {
        let (project, run, attempt) = (project.clone(), run.clone(), "many rows".to_owned());
        let save = SaveRequest { project, run, step, world_size: self.ranks, attempt };
        let session = engine.begin_save(&save).await?;
        let packs = (0..PACKS).map(|pack| put_pack(engine, &save.project, session.epoch, pack));
        let packs: Vec<PackHeader> = stream::iter(packs).buffered(PUTS_IN_FLIGHT).try_collect().await?;
        let packs = &packs;
        let project = &save.project;
        let parts = (0..self.ranks).map(|rank| async move {
            let part = write_part(&PartMeta::of_rank(rank, self.ranks), &self.part(packs, rank))?;
            Ok::<_, ManyRowsError>(engine.put_part(project, session.save, rank, part.into()).await?)
        });
        stream::iter(parts).buffer_unordered(PUTS_IN_FLIGHT).try_collect::<()>().await?;
        Ok(engine.finish_save(&FinishRequest { save: save.clone(), deadline_ms: 0, waited_ms: 0, tag: None }).await?)
    }

    fn part(&self, packs: &[PackHeader], rank: u32) -> Vec<PartRow> {
        let row = |slice, source: (u64, u64)| {
            let pack = &packs[source.0 as usize];
            let entry = &pack.entries()[source.1 as usize];
            let (offset, stored_len) = (entry.stored.start(), entry.stored.len());
            let place =
                Place { pack: pack.name(), header_len: pack.header_len(), offset, stored_len, codec: Codec::Raw };
            SliceRow { slice, blake3: entry.slice.tree.root(), place: Some(place) }
        };
        let slice = |name: &str, shape: &[u64], area| SliceId::tensor(name, DTYPE, shape, area).expect("a sound slice");
        let sharded = (0..self.tensors)
            .map(|index| row(slice(&self.name(index), &self.shape(), self.area(rank)), self.source(index, rank)));
        let mut rows: Vec<PartRow> = sharded.collect();
        if rank == 0 {
            let area = TensorBox::whole(&[SLICE_ROWS, COLUMNS]).expect("small numbers");
            let whole = slice(&self.whole_name(), &[SLICE_ROWS, COLUMNS], area);
            rows.push(row(whole, self.source(self.tensors, 0)));
            rows.sort_by(|a, b| a.slice.order().cmp(&b.slice.order()));
        }
        rows
    }

    /// Returns the pack, and the slice of it, that hold the slice of a tensor and rank.
    fn source(&self, index: u64, rank: u32) -> (u64, u64) {
        let rank = u64::from(rank);
        (rank % PACKS, (index + rank / PACKS * RANK_STRIDE) % PACK_SLICES)
    }
}

async fn put_pack(engine: &Engine, project: &ProjectName, epoch: u64, pack: u64) -> Result<PackHeader, ManyRowsError> {
    let contents: Vec<Bytes> = (0..PACK_SLICES).map(|slice| content(pack, slice)).collect();
    let slices = contents.iter().enumerate().map(|(slice, content)| {
        let area = TensorBox::whole(&[SLICE_ROWS, COLUMNS]).expect("small numbers");
        let id = SliceId::tensor(&format!("content.{slice:04}"), DTYPE, &[SLICE_ROWS, COLUMNS], area);
        let tree = GroupTree::of(content);
        PackSlice { slice: id.expect("a sound slice"), tree, coding: Coding::Raw }
    });
    let (header, head) = PackHeader::build(slices.collect())?;
    let stored = Stored { digest: header.name(), epoch };
    engine.put_pack(project, stored, head, PackBody::Whole(contents)).await?;
    Ok(header)
}

/// Returns the content of slice `slice` of pack `pack`: noise, the same for the same numbers.
fn content(pack: u64, slice: u64) -> Bytes {
    XorShift::new(pack * PACK_SLICES + slice).bytes(SLICE_BYTES as usize)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gigastore_client::ambient::SystemAmbient;
    use gigastore_client::checkpoint::Wanted;
    use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
    use gigastore_client::transfer::progress::Progress;
    use gigastore_client::transfer::sink::BufferSink;
    use gigastore_engine::store::OpenMode;
    use gigastore_formats::tensor::slice::SliceKind;
    use object_store::memory::InMemory;

    use super::*;
    use crate::opened::engine;

    #[tokio::test]
    async fn every_row_has_the_bytes_that_it_should_have() {
        let many = ManyRows { tensors: 24, ranks: 40 };
        let engine = engine(Arc::new(InMemory::new()), OpenMode::Create).await.unwrap();
        let committed = many.commit(&engine, &"p".parse().unwrap(), &"run".parse().unwrap(), 7).await.unwrap();
        assert_eq!(committed.info.commit.items, many.rows());
        let store = Store::over(Arc::new(engine), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES);
        let names = (0..many.tensors).map(|index| (many.name(index), many.area(33), many.content(index, 33)));
        let whole = TensorBox::whole(&[SLICE_ROWS, COLUMNS]).unwrap();
        let all = names.chain([(many.whole_name(), whole, many.content(many.tensors, 0))]);
        let mut expected = Vec::new();
        let wanted = all.map(|(name, area, content)| {
            let sink = BufferSink::new(vec![0; SLICE_BYTES as usize]);
            expected.push((Arc::<BufferSink<_>>::clone(&sink), content));
            Wanted { kind: SliceKind::Tensor, name, area: Some(area), sink }
        });
        let wanted = wanted.collect();
        store.restore(&"p/run@7".parse().unwrap(), wanted, &Progress::default()).await.unwrap();
        for (sink, content) in expected {
            assert_eq!(sink.into_inner().unwrap(), content);
        }
    }
}
