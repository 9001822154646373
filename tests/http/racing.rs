//! Many clients through two services on one store: every save stands in the log exactly once.

use std::collections::BTreeMap;

use futures::future::join_all;
use gigastore_formats::digest::Digest;
use gigastore_formats::record::{Action, Record, SaveBegin, TxnId};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_server::Limits;
use gigastore_tests::model::Tensor;
use gigastore_tests::opened::save;
use gigastore_tests::raw::ask;

use crate::served::{Served, spec};

/// Clients at once; two of them save the same, one through each service.
const CLIENTS: u64 = 64;

/// Checkpoints that each commits.
const STEPS: u64 = 3;

fn tensor(run: u64, step: u64) -> Tensor {
    let data = format!("run {run}, step {step}").into_bytes();
    Tensor { name: "w".to_owned(), dtype: Dtype::U8, shape: vec![data.len() as u64], data: data.into() }
}

/// Reads the log from its first record, checks the chain, and returns how often each transaction stands in it.
fn transactions(served: &Served) -> BTreeMap<TxnId, u32> {
    let (mut prev, mut counts) = (Record::origin(), BTreeMap::new());
    for seq in 1.. {
        let path = served.store_folder().join(format!("projects/p/log/{seq:020}.json"));
        let Ok(bytes) = std::fs::read(path) else { break };
        let (record, digest): (Record, Digest) = Record::unseal(&bytes, seq, prev).unwrap();
        for entry in record.entries.iter().filter(|entry| matches!(entry.action, Action::Commit(_))) {
            *counts.entry(entry.txn).or_default() += 1;
        }
        prev = digest;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_through_two_services_commit_exactly_once() {
    let first = Served::new().await;
    let (second, _) = Served::another(&first.store_folder(), None, Limits::default(), false).await;
    let runs = CLIENTS / 2;
    let clients = (0..CLIENTS).map(|client| {
        let (run, store) = (client % runs, if client < runs { first.store(None) } else { second_store(second) });
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for step in 0..STEPS {
                let spec = spec("p", &format!("run-{run}"), step, 1);
                let (committed, _) = save(&store, spec, &[tensor(run, step)]).await.unwrap();
                seen.push((run, step, committed.info.seq));
            }
            seen
        })
    });
    let seen: Vec<_> = join_all(clients).await.into_iter().flat_map(Result::unwrap).collect();
    let mut by_save: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    seen.into_iter().for_each(|(run, step, seq)| by_save.entry((run, step)).or_default().push(seq));
    assert!(by_save.values().all(|seqs| seqs.len() == 2 && seqs[0] == seqs[1]), "both saw one commit: {by_save:?}");
    let expected: BTreeMap<TxnId, u32> = by_save
        .keys()
        .map(|(run, step)| {
            let run = format!("run-{run}").parse().unwrap();
            (SaveBegin::id(&"p".parse().unwrap(), &run, *step, "job"), 1)
        })
        .collect();
    assert_eq!(transactions(&first), expected, "every transaction exactly once, and no other");
    for address in [first.address, second] {
        let info = ask(address, "GET", "/v1/projects/p", &[], b"").await.unwrap().json();
        // Those that come together share a record.
        let records = info["seq"].as_u64().unwrap();
        assert!((STEPS..=runs * STEPS).contains(&records), "{records} records");
        let live = info["names"].as_array().unwrap().iter().map(|name| name["live"].as_array().unwrap().len());
        assert_eq!(live.collect::<Vec<_>>(), vec![STEPS as usize; runs as usize]);
    }
}

fn second_store(address: std::net::SocketAddr) -> gigastore_client::store::Store {
    gigastore_client::store::Store::connect(&format!("http://{address}"), None).unwrap()
}
