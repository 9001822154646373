//! Group trees of many pieces of content, on all cores.
//!
//! Work is cut into jobs of some MiB: small slices go together, large ones are split at group borders, so that neither
//! a thousand biases nor one embedding leaves a core idle. Must never copy the content.

use bytes::Bytes;
use futures::future::join_all;
use gigastore_formats::ambient::Ambient;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::verified::{GroupTree, group_value};

use super::mark::mark;

/// Bytes of one job: 8 MiB take some 3 ms on one core, far above the cost of handing a job over.
const JOB_BYTES: u64 = 8 << 20;

/// Hashes each content; trees come in the same order.
pub(crate) async fn trees(ambient: &dyn Ambient, contents: &[Bytes]) -> Vec<GroupTree> {
    looked_at(ambient, contents, |_| ()).await.into_iter().map(|(tree, _)| tree).collect()
}

/// Hashes each content, with the [marks](mark) of its groups as they were before they were hashed.
pub(crate) async fn marked_trees(ambient: &dyn Ambient, contents: &[Bytes]) -> Vec<(GroupTree, Vec<u64>)> {
    looked_at(ambient, contents, mark).await
}

/// Hashes each content, and lets `look` see each group just before.
async fn looked_at<T: Send + 'static>(
    ambient: &dyn Ambient,
    contents: &[Bytes],
    look: impl Fn(&[u8]) -> T + Copy + Send + 'static,
) -> Vec<(GroupTree, Vec<T>)> {
    let jobs = batches(contents).into_iter().map(|batch| async move {
        match batch {
            Batch::Whole(first, contents) => {
                let seen = move |bytes: &Bytes| {
                    let seen = bytes.chunks(GROUP_BYTES as usize).map(look).collect();
                    (GroupTree::of(bytes), seen)
                };
                (first, ambient.computed(move || contents.iter().map(seen).collect::<Vec<_>>()).await)
            }
            Batch::Large(index, content) => (index, vec![large(ambient, content, look).await]),
        }
    });
    let mut done = join_all(jobs).await;
    done.sort_unstable_by_key(|(first, _)| *first);
    done.into_iter().flat_map(|(_, trees)| trees).collect()
}

enum Batch {
    /// Contents from this position on, hashed in one job.
    Whole(usize, Vec<Bytes>),
    /// One content, hashed in many jobs.
    Large(usize, Bytes),
}

fn batches(contents: &[Bytes]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let (mut first, mut batch, mut bytes) = (0, Vec::new(), 0);
    for (i, content) in contents.iter().enumerate() {
        let len = content.len() as u64;
        if !batch.is_empty() && (len > JOB_BYTES || bytes + len > JOB_BYTES) {
            batches.push(Batch::Whole(first, std::mem::take(&mut batch)));
            bytes = 0;
        }
        if len > JOB_BYTES {
            batches.push(Batch::Large(i, content.clone()));
            first = i + 1;
            continue;
        }
        if batch.is_empty() {
            first = i;
        }
        batch.push(content.clone());
        bytes += len;
    }
    if !batch.is_empty() {
        batches.push(Batch::Whole(first, batch));
    }
    batches
}

async fn large<T: Send + 'static>(
    ambient: &dyn Ambient,
    content: Bytes,
    look: impl Fn(&[u8]) -> T + Copy + Send + 'static,
) -> (GroupTree, Vec<T>) {
    let len = content.len() as u64;
    let per_job = JOB_BYTES / GROUP_BYTES;
    let jobs = (0..len.div_ceil(GROUP_BYTES)).step_by(per_job as usize).map(|first| {
        let start = first * GROUP_BYTES;
        let piece = content.slice(start as usize..len.min(start + JOB_BYTES) as usize);
        ambient.computed(move || {
            let groups = piece.chunks(GROUP_BYTES as usize).enumerate();
            groups.map(|(i, group)| (look(group), group_value(first + i as u64, group))).collect::<Vec<_>>()
        })
    });
    let (seen, values) = join_all(jobs).await.into_iter().flatten().unzip();
    let tree = GroupTree::merged(len, values);
    (tree.expect("content of more than a job has more than one group, each hashed once"), seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ambient::SystemAmbient;
    use gigastore_formats::digest::Digest;

    #[tokio::test]
    async fn many_sizes_hash_to_the_standard_digest_in_order() {
        let sizes = [0, 1, 5 << 20, 4 << 20, 9 << 20, (8 << 20) + 1, 100, 17 << 20, 3];
        let make = |(i, len): (usize, &usize)| Bytes::from((0..*len).map(|j| (i + j * 7) as u8).collect::<Vec<u8>>());
        let contents: Vec<Bytes> = sizes.iter().enumerate().map(make).collect();
        let ambient = SystemAmbient::shared();
        let trees = trees(&*ambient, &contents).await;
        assert_eq!(trees.len(), sizes.len());
        for (tree, content) in trees.iter().zip(&contents) {
            assert_eq!(tree.root(), Digest::of(content));
        }
    }
}
