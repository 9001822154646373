//! The files of a checkpoint, read without being written first: what was saved as a file, and the safetensors files
//! that its tensors make.
//!
//! Must never return a byte that was not verified, nor hold more than the range that is asked for.

use std::sync::{Arc, PoisonError};

use bytes::{Bytes, BytesMut};
use gigastore_formats::plan::{FileRead, PlanError, SlicePart, Unplanned};
use gigastore_formats::range::ByteRange;
use gigastore_formats::tensor::boxes::{BoxError, TensorBox};
use gigastore_formats::tensor::files::{INDEX, LayoutError, View};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::FileInfo;

use super::open::{Checkpoint, LaidOut};
use super::restore::{RestoreError, Wanted};
use crate::transfer::progress::Progress;
use crate::transfer::read::{Copy, SliceRead};
use crate::transfer::sink::{BufferSink, Sink};

/// Why a file of a checkpoint can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The checkpoint has no such file.
    #[error("{target} has no file {path:?}")]
    Unknown {
        /// The checkpoint.
        target: String,
        /// What was asked for.
        path: String,
        /// The files that there are.
        known: Vec<String>,
    },
    /// The range does not lie inside the file.
    #[error("{range} do not lie inside {path}, which has {bytes} bytes")]
    Range {
        /// The file.
        path: String,
        /// What was asked for.
        range: ByteRange,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The tensors do not make files.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The manifest does not have what the file needs.
    #[error("{target}: {source}")]
    Plan {
        /// The checkpoint.
        target: String,
        /// What is wrong.
        source: PlanError,
    },
    /// Reading failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl Checkpoint {
    /// Lists its files, by path: those that were saved, and beside them what its tensors make: `model.safetensors`, or
    /// of more than 5 GB of them `model-00001-of-0000N.safetensors` and so on with `model.safetensors.index.json`. They
    /// are, byte for byte, the files that [`export`](Self::export) writes. One that was saved under such a name stands
    /// in its place. Where the tensors make no files, as one has a name that safetensors keeps for itself, those that
    /// were saved are listed; reading one of the others says why.
    ///
    /// Of a checkpoint that was opened with some of its tensors, these make the files.
    pub fn files(&self) -> Vec<FileInfo> {
        self.planner.files(self.layout(self.planner.listed()).ok().as_deref())
    }

    /// Returns the bytes of a file, listed or not: both forms of a model are there.
    pub fn file_len(&self, path: &str) -> Result<u64, FileError> {
        if let Some(row) = self.planner.rows_of(SliceKind::File, path).first() {
            return Ok(row.slice.bytes());
        }
        let layout = self.layout(View::of(path).ok_or_else(|| self.unknown(path))?)?;
        match (path, layout.index()) {
            (INDEX, Some(index)) => Ok(index.len() as u64),
            _ => Ok(layout.file(path).ok_or_else(|| self.unknown(path))?.len),
        }
    }

    /// Reads a range of a file, all of it where none is given, into memory. Whoever reads long files asks for a piece
    /// after the other: each stored group that a piece touches is read once, and once more where the next piece starts
    /// inside it.
    ///
    /// Both forms of a model can be read, whichever is listed.
    pub async fn read_file(
        &self,
        path: &str,
        range: Option<ByteRange>,
        progress: &Progress,
    ) -> Result<Bytes, FileError> {
        let bytes = self.file_len(path)?;
        let whole = ByteRange::new(0, bytes).expect("0 is the smallest number");
        let range = range.unwrap_or(whole);
        if !whole.contains(&range) {
            return Err(FileError::Range { path: path.to_owned(), range, bytes });
        }
        if !self.planner.rows_of(SliceKind::File, path).is_empty() {
            return self.read_saved(path, range, progress).await;
        }
        let layout = self.layout(View::of(path).ok_or_else(|| self.unknown(path))?)?;
        if let (INDEX, Some(index)) = (path, layout.index()) {
            return Ok(index.slice(range.start() as usize..range.end() as usize));
        }
        let file = layout.file(path).ok_or_else(|| self.unknown(path))?;
        let (mut gathered, mut left) = (BytesMut::zeroed(range.len() as usize), Unplanned::from(range));
        while !left.is_empty() {
            let planned = self.planner.read_file(&layout, file, &mut left);
            let planned = planned.map_err(|source| FileError::Plan { target: self.target().to_string(), source })?;
            let Some(planned) = planned else { break };
            let mut piece = gathered.split_off((planned.range.start() - range.start()) as usize);
            let rest = piece.split_off(planned.range.len() as usize);
            gathered.unsplit(self.assemble(planned, piece, progress).await?);
            gathered.unsplit(rest);
        }
        Ok(gathered.freeze())
    }

    fn unknown(&self, path: &str) -> FileError {
        let (target, path) = (self.target().to_string(), path.to_owned());
        FileError::Unknown { target, path, known: self.files().into_iter().map(|file| file.path).collect() }
    }

    /// Reads files that were saved, whole, each stored byte once: thousands of small ones in few requests. Takes memory
    /// for all of them.
    pub async fn read_saved_files(&self, paths: &[String], progress: &Progress) -> Result<Vec<Bytes>, RestoreError> {
        let bytes_of = |path: &String| {
            let row = self.planner.rows_of(SliceKind::File, path).first();
            row.map_or(0, |row| row.slice.bytes() as usize)
        };
        let sinks: Vec<_> = paths.iter().map(|path| BufferSink::new(vec![0; bytes_of(path)])).collect();
        let wanted = paths.iter().zip(&sinks).map(|(path, sink)| {
            let sink: Arc<dyn Sink> = Arc::<BufferSink<_>>::clone(sink);
            Wanted { kind: SliceKind::File, name: path.clone(), area: None, sink }
        });
        // One that is not there is refused by name.
        self.read(wanted.collect(), progress).await?;
        let filled = sinks.into_iter().map(|sink| sink.into_inner().expect("a restore that is done holds no sink"));
        Ok(filled.map(Bytes::from).collect())
    }

    /// Returns the files of one view, laid out once for all clones of the checkpoint.
    fn layout(&self, view: View) -> LaidOut {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts.entry(view).or_insert_with(|| self.planner.layout(view).map(Arc::new)).clone()
    }

    async fn read_saved(&self, path: &str, range: ByteRange, progress: &Progress) -> Result<Bytes, FileError> {
        let sink = BufferSink::new(vec![0; range.len() as usize]);
        let boxed = |source: BoxError| RestoreError::Box { name: path.to_owned(), source };
        let area = TensorBox::new(vec![range.start()], vec![range.len()]).map_err(boxed)?;
        let (name, to) = (path.to_owned(), Arc::<BufferSink<_>>::clone(&sink));
        let wanted = Wanted { kind: SliceKind::File, name, area: Some(area), sink: to };
        self.read(vec![wanted], progress).await?;
        Ok(sink.into_inner().expect("a restore that is done holds no sink").into())
    }

    /// Reads what was planned.
    async fn assemble(
        &self,
        planned: FileRead,
        mut buffer: BytesMut,
        progress: &Progress,
    ) -> Result<BytesMut, FileError> {
        let FileRead { header, parts, .. } = planned;
        buffer[..header.len()].copy_from_slice(&header);
        progress.plan((buffer.len() - header.len()) as u64);
        let sink = BufferSink::new(buffer);
        let read = |SlicePart { row, copies, .. }| {
            let to = || Arc::<BufferSink<_>>::clone(&sink) as Arc<dyn Sink>;
            let copies = copies.into_iter().map(|plan| Copy { plan, sink: to() }).collect();
            SliceRead { row: self.rows()[row].clone(), copies }
        };
        self.read_parts(parts.into_iter().map(read).collect(), progress).await?;
        Ok(sink.into_inner().expect("a restore that is done holds no sink"))
    }
}
