//! Upkeep by the engine in this process.
//!
//! Must never do more than convert.

use async_trait::async_trait;
use gigastore_engine::Engine;
use gigastore_formats::collect::{CollectReport, CollectRequest, UsageReport, UsageRequest};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Done, NamePolicy, Policy, RetainReport, RetainRequest, Verb};
use gigastore_formats::wire::Fault;

use super::fault;
use crate::transport::upkeep::Upkeep;

#[async_trait]
impl Upkeep for Engine {
    async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, Fault> {
        Engine::collect(self, request).await.map_err(fault)
    }

    async fn usage(&self, request: &UsageRequest) -> Result<UsageReport, Fault> {
        Engine::usage(self, request).await.map_err(fault)
    }

    async fn keep(
        &self,
        project: &ProjectName,
        txn: TxnId,
        verb: Verb,
        name: &Name,
        number: u64,
    ) -> Result<Done, Fault> {
        Engine::keep(self, project, txn, verb, name, number).await.map_err(fault)
    }

    async fn policies(&self, project: &ProjectName) -> Result<Vec<NamePolicy>, Fault> {
        Engine::policies(self, project).await.map_err(fault)
    }

    async fn set_policy(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        policy: Option<&Policy>,
    ) -> Result<(), Fault> {
        Engine::set_policy(self, project, txn, name, policy).await.map_err(fault)
    }

    async fn retain(&self, request: &RetainRequest) -> Result<RetainReport, Fault> {
        Engine::retain(self, request).await.map_err(fault)
    }
}
