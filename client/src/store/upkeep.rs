//! Keeping a store in order: pins, drops, policies, collection.
//!
//! Must never decide what is garbage, or what a policy drops: the store does.

use gigastore_formats::collect::{CollectReport, CollectRequest, UsageReport, UsageRequest};
use gigastore_formats::name::{Name, ProjectName, Target};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Done, NamePolicy, Policy, RetainReport, RetainRequest, Verb};
use gigastore_formats::wire::Fault;

use super::Store;

impl Store {
    /// Draws the id of a new operation on the log.
    pub fn new_txn(&self, kind: &str) -> TxnId {
        TxnId::derive(&[kind.as_bytes(), &self.ambient.random_bytes()])
    }

    /// Keeps the live commit that a target means from being dropped.
    pub async fn pin(&self, target: &Target) -> Result<Done, Fault> {
        self.keep(Verb::Pin, target).await
    }

    /// Takes the pin of the live commit that a target means away.
    pub async fn unpin(&self, target: &Target) -> Result<Done, Fault> {
        self.keep(Verb::Unpin, target).await
    }

    /// Drops the live commit that a target means. Final; nothing is deleted before later collections. A conflict where
    /// it is pinned, tagged, or the newest step of its run.
    pub async fn drop_commit(&self, target: &Target) -> Result<Done, Fault> {
        self.keep(Verb::Drop, target).await
    }

    async fn keep(&self, verb: Verb, target: &Target) -> Result<Done, Fault> {
        let number = self.resolve(target).await?.commit.number;
        self.transport.keep(&target.project, self.new_txn("keep"), verb, &target.name, number).await
    }

    /// Lists the policies of a project.
    pub async fn policies(&self, project: &ProjectName) -> Result<Vec<NamePolicy>, Fault> {
        self.transport.policies(project).await
    }

    /// Sets what retention keeps of a run or dataset; `None` takes the policy away.
    pub async fn set_policy(&self, project: &ProjectName, name: &Name, policy: Option<&Policy>) -> Result<(), Fault> {
        self.transport.set_policy(project, self.new_txn("policy"), name, policy).await
    }

    /// Drops what the policies of a project do not keep.
    pub async fn retain(&self, request: &RetainRequest) -> Result<RetainReport, Fault> {
        self.transport.retain(request).await
    }

    /// Collects the garbage of a project: appends a fence, and deletes what an earlier one condemned.
    pub async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, Fault> {
        self.transport.collect(request).await
    }

    /// Adds up what a project stores.
    pub async fn usage(&self, request: &UsageRequest) -> Result<UsageReport, Fault> {
        self.transport.usage(request).await
    }
}
