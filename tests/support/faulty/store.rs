//! The store itself: every call becomes a numbered operation around the same call of the inner store.
//!
//! Must never reorder: objects of a delete stream are deleted one after another, so that their numbers repeat. Renames
//! and reads of several ranges are made of the operations they consist of.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::desk::{Desk, Turn, kill_this_process};
use super::{Op, Operation, Plan, Verdict, body, plan};

/// A store around another that fails as its plan says. Clones share numbers, log and plan.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    desk: Arc<Desk>,
}

impl FaultyStore {
    /// Returns a store that passes everything on, numbered and recorded.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self::with_plan(inner, plan::pass())
    }

    /// Returns a store under a plan.
    pub fn with_plan(inner: Arc<dyn ObjectStore>, plan: Plan) -> Self {
        Self { inner, desk: Arc::new(Desk::new(plan)) }
    }

    /// Puts another plan in force for the operations to come; numbers go on.
    pub fn set_plan(&self, plan: Plan) {
        self.desk.set_plan(plan);
    }

    /// Returns every operation so far, in order.
    pub fn log(&self) -> Vec<Operation> {
        self.desk.log()
    }

    /// Returns how many operations of a kind there were.
    pub fn count(&self, op: Op) -> usize {
        self.log().iter().filter(|operation| operation.op == op).count()
    }

    /// Returns the bytes of objects and parts that reached the inner store.
    pub fn bytes_put(&self) -> u64 {
        self.desk.bytes_put.load(Ordering::SeqCst)
    }

    /// Returns the bytes of bodies that were handed out.
    pub fn bytes_got(&self) -> u64 {
        self.desk.bytes_got.load(Ordering::SeqCst)
    }

    fn turn(&self, op: Op, path: &Path, bytes: u64) -> Turn {
        self.desk.turn(op, path.as_ref(), bytes)
    }

    /// Passes a listing on; its turn comes when it is first asked for an item.
    fn listing(
        &self,
        prefix: Option<&Path>,
        start: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let path = prefix.cloned().unwrap_or_default();
        let items = async move {
            let turn = store.turn(Op::List, &path, 0);
            match turn.verdict {
                Verdict::FailBefore(failure) => stream::once(async move { Err(failure.error(path.as_ref())) }).boxed(),
                Verdict::FailAfter(failure) => {
                    let end = stream::once(async move { Err(failure.error(path.as_ref())) });
                    start(&store.inner).chain(end).boxed()
                }
                Verdict::Kill => kill_this_process(),
                Verdict::KillAfter => start(&store.inner).chain(stream::once(async { kill_this_process() })).boxed(),
                Verdict::Pass | Verdict::Truncate(_) | Verdict::Flip(_) => start(&store.inner),
            }
        };
        stream::once(items).flatten().boxed()
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let op = if opts.mode == PutMode::Create { Op::Create } else { Op::Put };
        let bytes = payload.content_length() as u64;
        let turn = self.turn(op, location, bytes);
        let work = async {
            let answer = self.inner.put_opts(location, payload, opts).await?;
            turn.put(bytes);
            Ok(answer)
        };
        turn.around(work).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let turn = self.turn(Op::MultipartStart, location, 0);
        let inner = turn.around(self.inner.put_multipart_opts(location, opts)).await?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let turn = self.turn(if head { Op::Head } else { Op::Get }, location, 0);
        let work = async {
            let answer = self.inner.get_opts(location, options).await?;
            if head {
                return Ok(answer);
            }
            turn.answered(answer.range.clone());
            Ok(body::treat(answer, turn.verdict, Arc::clone(&self.desk)))
        };
        turn.around(work).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let turn = store.turn(Op::Delete, &location, 0);
                turn.around(store.inner.delete(&location)).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner_prefix = prefix.cloned();
        self.listing(prefix, move |inner| inner.list(inner_prefix.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner_prefix, offset) = (prefix.cloned(), offset.clone());
        self.listing(prefix, move |inner| inner.list_with_offset(inner_prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let turn = self.desk.turn(Op::List, prefix.map_or("", AsRef::as_ref), 0);
        turn.around(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let op = if options.mode == CopyMode::Create { Op::CopyCreate } else { Op::Copy };
        self.turn(op, to, 0).around(self.inner.copy_opts(from, to, options)).await
    }
}

/// A multipart upload whose parts, completion and abort are operations too.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultyStore,
    location: Path,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length() as u64;
        let turn = self.store.turn(Op::Part, &self.location, bytes);
        // The inner upload numbers parts when they are asked for, so a part that must not land is never asked for.
        let refused = matches!(turn.verdict, Verdict::FailBefore(_) | Verdict::Kill);
        let part = (!refused).then(|| self.inner.put_part(data));
        Box::pin(async move {
            let work = async {
                if let Some(part) = part {
                    part.await?;
                    turn.put(bytes);
                }
                Ok(())
            };
            turn.around(work).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let turn = self.store.turn(Op::Complete, &self.location, 0);
        turn.around(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let turn = self.store.turn(Op::Abort, &self.location, 0);
        turn.around(self.inner.abort()).await
    }
}
