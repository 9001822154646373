//! The part of the seam by which a store is kept in order: what is collected, and what stays.
//!
//! Must never decide what is garbage, or what a policy drops: the store does.

use async_trait::async_trait;
use gigastore_formats::collect::{CollectReport, CollectRequest, UsageReport, UsageRequest};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Done, NamePolicy, Policy, RetainReport, RetainRequest, Verb};
use gigastore_formats::wire::Fault;

/// Upkeep of one store, however it is reached. An operation with a transaction has one effect, however often it is
/// asked for.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Collects the garbage of a project.
    async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, Fault>;

    /// Adds up what a project stores.
    async fn usage(&self, request: &UsageRequest) -> Result<UsageReport, Fault>;

    /// Pins, unpins or drops a live step or version.
    async fn keep(
        &self,
        project: &ProjectName,
        txn: TxnId,
        verb: Verb,
        name: &Name,
        number: u64,
    ) -> Result<Done, Fault>;

    /// Lists the policies of a project.
    async fn policies(&self, project: &ProjectName) -> Result<Vec<NamePolicy>, Fault>;

    /// Sets what retention keeps of a run or dataset; `None` takes the policy away.
    async fn set_policy(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        policy: Option<&Policy>,
    ) -> Result<(), Fault>;

    /// Drops what policies do not keep.
    async fn retain(&self, request: &RetainRequest) -> Result<RetainReport, Fault>;
}
