//! A transformer's state that nothing compresses, whole saves and restores of it, and the buffers a trainer keeps.
//!
//! Must never return from a restore whose bytes are not those that were saved.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use futures::future::try_join_all;
use gigastore_client::checkpoint::shard::shard;
use gigastore_client::checkpoint::{Compression, SaveSpec, Slice, Wanted};
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_client::transfer::source::SliceData;
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::{SliceId, SliceKind};

use crate::Res;
use crate::clock::processor_seconds;

/// Where every bench saves to.
pub(crate) const TARGET: &str = "bench/run@1";

/// Bytes of the files of the limits: those of a pack.
const PART_BYTES: usize = 64 << 20;

/// Rows of every tensor of the state: one page each.
const ROW_BYTES: u64 = 4096;

const PAGE_BYTES: usize = 4096;

/// One tensor.
pub(crate) struct Tensor {
    pub(crate) id: SliceId,
    pub(crate) data: Bytes,
}

/// Tensors that lie one behind the other in memory.
pub(crate) struct State {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) memory: Bytes,
}

/// Memory that restores go into, as long as the tensors; used again and never given back to the system.
pub(crate) struct Buffers(Vec<Buffer>);

/// Memory of a tensor from a page border on, as pinned memory has it.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new(len: usize) -> Self {
        // Each page is there already.
        let memory = vec![1; len + PAGE_BYTES];
        Self { start: memory.as_ptr().align_offset(PAGE_BYTES), memory }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let len = self.memory.len() - PAGE_BYTES;
        &mut self.memory[self.start..self.start + len]
    }
}

/// What a restore took of this process.
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) core_seconds: f64,
}

impl State {
    /// Makes about `bytes` of bf16 weights and f32 optimizer state: an embedding of an eighth, layers, norms of 4 KiB.
    pub(crate) fn transformer(bytes: u64) -> Res<Self> {
        const LAYERS: u64 = 24;
        let mut shapes = vec![("embed.weight".to_owned(), Dtype::BF16, bytes / 8)];
        let layer = (bytes - bytes / 8) / LAYERS;
        for i in 0..LAYERS {
            for (name, share) in [("q", 8), ("k", 8), ("v", 8), ("up", 4)] {
                shapes.push((format!("layers.{i}.{name}.weight"), Dtype::BF16, layer / share));
            }
            shapes.push((format!("optimizer.{i}.master"), Dtype::F32, layer * 3 / 8));
            shapes.push((format!("layers.{i}.norm.weight"), Dtype::F32, ROW_BYTES));
        }
        let rows = |bytes: u64| (bytes / ROW_BYTES).max(1);
        let total: u64 = shapes.iter().map(|(_, _, bytes)| rows(*bytes) * ROW_BYTES).sum();
        let memory = noise(total as usize);
        let shapes = shapes.into_iter().map(|(name, dtype, bytes)| {
            let element = dtype.bytes_of(1).ok_or("elements of whole bytes")?;
            Ok((name, dtype, vec![rows(bytes), ROW_BYTES / element]))
        });
        Self::of(shapes.collect::<Res<_>>()?, memory)
    }

    /// Cuts memory into tensors of these names, types and shapes.
    pub(crate) fn of(shapes: Vec<(String, Dtype, Vec<u64>)>, memory: Bytes) -> Res<Self> {
        let mut at = 0;
        let tensors = shapes.into_iter().map(|(name, dtype, shape)| {
            let id = SliceId::tensor(&name, dtype, &shape, TensorBox::whole(&shape)?)?;
            let data = memory.slice(at..at + id.bytes() as usize);
            at += data.len();
            Ok(Tensor { id, data })
        });
        let tensors = tensors.collect::<Res<Vec<_>>>()?;
        Ok(Self { tensors, memory })
    }

    /// Returns the bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Returns the same memory in pieces as long as packs.
    pub(crate) fn parts(&self) -> Vec<&[u8]> {
        self.memory.chunks(PART_BYTES).collect()
    }

    /// Returns buffers as long as the tensors.
    pub(crate) fn buffers(&self) -> Buffers {
        Buffers(self.tensors.iter().map(|tensor| Buffer::new(tensor.data.len())).collect())
    }

    /// Saves the state to [`TARGET`] as `stores.len()` ranks at once, each with a store of its own, as processes would;
    /// returns the seconds.
    pub(crate) async fn save(&self, stores: &[Store], compress: Compression) -> Res<f64> {
        let world_size = u32::try_from(stores.len())?;
        let ranks = (0..world_size).map(|rank| self.slices(rank, world_size)).collect::<Res<Vec<_>>>()?;
        let mut spec = SaveSpec::new("bench".parse()?, "run".parse()?, 1, world_size);
        (spec.attempt, spec.compress) = (Some("bench".to_owned()), compress);
        let started = Instant::now();
        try_join_all(ranks.into_iter().zip(stores).zip(0..).map(|((slices, store), rank)| {
            let spec = spec.clone();
            async move {
                let save = store.begin_save(spec, Progress::default()).await?;
                save.rank(rank, slices).await?;
                save.finish().await
            }
        }))
        .await?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Restores all of it from [`TARGET`].
    pub(crate) async fn restore(&self, store: &Store, buffers: &mut Buffers) -> Res<Spent> {
        let sinks: Vec<_> = buffers.0.drain(..).map(BufferSink::new).collect();
        let wanted = self.tensors.iter().zip(&sinks).map(|(tensor, sink)| {
            let (name, sink) = (tensor.id.name().to_owned(), sink.clone());
            Wanted { kind: SliceKind::Tensor, name, area: None, sink }
        });
        let wanted: Vec<Wanted> = wanted.collect();
        let (started, worked) = (Instant::now(), processor_seconds(std::process::id())?);
        store.restore(&TARGET.parse()?, wanted, &Progress::default()).await?;
        let seconds = started.elapsed().as_secs_f64();
        let core_seconds = processor_seconds(std::process::id())? - worked;
        for (sink, tensor) in sinks.into_iter().zip(&self.tensors) {
            let mut buffer = sink.into_inner().ok_or("a restore that is done holds a sink")?;
            let bytes = buffer.as_mut();
            if *bytes != tensor.data {
                return Err(format!("{} came back with other bytes", tensor.id).into());
            }
            // What the next restore does not write must not look right.
            bytes.fill(0);
            buffers.0.push(buffer);
        }
        Ok(Spent { seconds, core_seconds })
    }

    /// Returns what one rank has of it, cut along dimension 0.
    fn slices(&self, rank: u32, world_size: u32) -> Res<Vec<Slice>> {
        let mut slices = Vec::new();
        for Tensor { id, data } in &self.tensors {
            let (dtype, shape) = (id.dtype(), id.global_shape());
            let Some(area) = shard(id.name(), dtype, shape, rank, world_size)? else { continue };
            let before = area.offsets().first().copied().unwrap_or(0) * shape.iter().skip(1).product::<u64>();
            let start = dtype.bytes_of(before).ok_or("shards start at whole bytes")? as usize;
            let id = SliceId::tensor(id.name(), dtype, shape, area)?;
            let data = SliceData::Memory(data.slice(start..start + id.bytes() as usize));
            slices.push(Slice { id, data, replicas: Vec::new() });
        }
        Ok(slices)
    }
}

/// Returns the packs of the store in a folder.
pub(crate) fn packs(store: &Path) -> Res<Vec<PathBuf>> {
    let mut found = Vec::new();
    for shelf in std::fs::read_dir(store.join("projects/bench/packs"))? {
        for pack in std::fs::read_dir(shelf?.path())? {
            found.push(pack?.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Returns bytes that nothing compresses, the same each time.
pub(crate) fn noise(len: usize) -> Bytes {
    let mut memory = vec![0; len];
    let share = len.div_ceil(2).max(1);
    thread::scope(|scope| {
        for (i, piece) in memory.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                let mut random = blake3::Hasher::new().finalize_xof();
                random.set_position((i * share) as u64);
                random.fill(piece);
            });
        }
    });
    memory.into()
}
