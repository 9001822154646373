//! Upkeep by a service.
//!
//! What takes long is answered line by line, so that a service that is at work is told from one that is gone. Must
//! never take an answer that broke off for a result.

use async_trait::async_trait;
use gigastore_formats::collect::{CollectReport, CollectRequest, UsageReport, UsageRequest};
use gigastore_formats::name::{Name, ProjectName};
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::{Done, NamePolicy, Policy, RetainReport, RetainRequest, Verb};
use gigastore_formats::wire::Fault;
use reqwest::Method;
use serde_json::json;

use super::remote::Call;
use super::sent::Sent;
use super::{Http, below, body, lines};
use crate::transport::upkeep::Upkeep;

#[async_trait]
impl Upkeep for Http {
    async fn collect(&self, request: &CollectRequest) -> Result<CollectReport, Fault> {
        lines::last(&self.remote, Call::new(Method::POST, below(&request.project, "/collect"), body(request)?), |()| {})
            .await
    }

    async fn usage(&self, request: &UsageRequest) -> Result<UsageReport, Fault> {
        lines::last(&self.remote, Call::new(Method::POST, below(&request.project, "/usage"), body(request)?), |()| {})
            .await
    }

    async fn keep(
        &self,
        project: &ProjectName,
        txn: TxnId,
        verb: Verb,
        name: &Name,
        number: u64,
    ) -> Result<Done, Fault> {
        let pin = below(project, format_args!("/pins/{name}/{number}"));
        let call = match verb {
            Verb::Pin => Call::new(Method::PUT, pin, body(&json!({ "txn": txn }))?),
            Verb::Unpin => Call::new(Method::DELETE, format!("{pin}?txn={txn}"), Sent::Nothing),
            Verb::Drop => {
                let path = below(project, format_args!("/names/{name}/{number}?txn={txn}"));
                Call::new(Method::DELETE, path, Sent::Nothing)
            }
        };
        self.ask(call).await
    }

    async fn policies(&self, project: &ProjectName) -> Result<Vec<NamePolicy>, Fault> {
        self.ask(Call::get(below(project, "/policies"))).await
    }

    async fn set_policy(
        &self,
        project: &ProjectName,
        txn: TxnId,
        name: &Name,
        policy: Option<&Policy>,
    ) -> Result<(), Fault> {
        let sent = body(&json!({ "txn": txn, "policy": policy }))?;
        let call = Call::new(Method::PUT, below(project, format_args!("/policies/{name}")), sent);
        self.ask(call).await
    }

    async fn retain(&self, request: &RetainRequest) -> Result<RetainReport, Fault> {
        lines::last(&self.remote, Call::new(Method::POST, below(&request.project, "/retain"), body(request)?), |()| {})
            .await
    }
}
