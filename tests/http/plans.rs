//! Plans over HTTP: the same as in process, for whole tensors and for boxes of every kind.

use std::sync::Arc;

use gigastore_client::transport::Transport;
use gigastore_engine::Engine;
use gigastore_formats::name::Target;
use gigastore_formats::plan::{Area, MAX_BOXES, PlanBox, PlanRequest};
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_formats::wire::{Fault, FaultCode};
use gigastore_tests::model::{Tensor, XorShift};
use serde_json::json;

use crate::served::Served;

fn whole(kind: SliceKind, name: &str) -> PlanBox {
    PlanBox { kind, name: name.to_owned(), area: None }
}

/// A box of a tensor: within it for the most part, and now and then not.
fn random_box(tensor: &Tensor, random: &mut XorShift) -> PlanBox {
    let mut area = Area { global_offsets: Vec::new(), sizes: Vec::new() };
    for size in &tensor.shape {
        let start = random.below(size + 1);
        let beyond = u64::from(random.below(40) == 0);
        area.global_offsets.push(start);
        area.sizes.push(random.below(size - start + 1) + beyond);
    }
    if random.below(50) == 0 {
        area.sizes.push(1);
    }
    PlanBox { kind: SliceKind::Tensor, name: tensor.name.clone(), area: Some(area) }
}

async fn both(served: &Served, request: &PlanRequest) -> [Result<serde_json::Value, Fault>; 2] {
    let target: Target = "p/run@1".parse().unwrap();
    let http = served.http(None);
    let engine: Arc<dyn Transport> = Arc::new(Engine::clone(&served.engine));
    let asked = [http.plan(&target, request).await, engine.plan(&target, request).await];
    asked.map(|answer| answer.map(|answer| serde_json::to_value(answer).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_the_same_over_http_as_in_process() {
    let served = Served::new().await;
    let tensors = served.fill(None).await;
    let mut requests = vec![
        PlanRequest { boxes: Vec::new() },
        PlanRequest { boxes: vec![whole(SliceKind::File, "sub/config.json")] },
        PlanRequest { boxes: tensors.iter().map(|tensor| whole(SliceKind::Tensor, &tensor.name)).collect() },
    ];
    requests.extend(tensors.iter().map(|tensor| PlanRequest { boxes: vec![whole(SliceKind::Tensor, &tensor.name)] }));
    let mut random = XorShift::new(11);
    for _ in 0..150 {
        let count = 1 + random.below(4);
        let boxes = (0..count).map(|_| {
            let tensor = &tensors[random.below(tensors.len() as u64) as usize];
            random_box(tensor, &mut random)
        });
        requests.push(PlanRequest { boxes: boxes.collect() });
    }
    let (mut planned, mut refused) = (0, 0);
    for request in requests {
        match both(&served, &request).await {
            [Ok(over_http), Ok(in_process)] => {
                assert_eq!(over_http, in_process, "{request:?}");
                planned += 1;
            }
            [Err(over_http), Err(in_process)] => {
                let same = |fault: &Fault| (fault.code, fault.message.clone());
                assert_eq!(same(&over_http), same(&in_process), "{request:?}");
                assert_eq!(over_http.code, FaultCode::Invalid);
                refused += 1;
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    assert!(planned > 100 && refused > 5, "{planned} planned, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_planned_is_refused_in_words() {
    let served = Served::new().await;
    served.fill(None).await;
    for (kind, name) in [
        (SliceKind::Tensor, "model.norm.weigth"),
        (SliceKind::File, "model.norm.weight"),
        (SliceKind::Tensor, "sub/config.json"),
        (SliceKind::Tensor, ""),
        (SliceKind::File, "../../secret"),
    ] {
        let request = PlanRequest { boxes: vec![whole(kind, name)] };
        let [Err(over_http), Err(in_process)] = both(&served, &request).await else { panic!("{name:?} was planned") };
        assert_eq!((over_http.code, &over_http.known), (FaultCode::NotFound, &in_process.known), "{name:?}");
        assert!(over_http.message.contains(&format!("{name:?}")), "{over_http}");
    }
    let boxes = |count| PlanRequest { boxes: vec![whole(SliceKind::Tensor, "model.temperature"); count] };
    let [over_http, _] = both(&served, &boxes(MAX_BOXES)).await;
    assert_eq!(over_http.unwrap()["slices"].as_array().unwrap().len(), 1, "100,000 boxes of one slice");
    let [over_http, _] = both(&served, &boxes(MAX_BOXES + 1)).await;
    let refused = over_http.unwrap_err();
    assert_eq!(refused.code, FaultCode::Invalid);
    assert!(refused.message.contains("100001"), "{refused}");
    let target = "/v1/projects/p/checkpoints/run/1/plan";
    for body in [json!({}), json!({ "boxes": 1 }), json!([]), json!({ "boxes": [{ "kind": "tensor" }] })] {
        let answer = served.ask("POST", target, &[], body.to_string().as_bytes()).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid".to_owned()), "{body}: {answer:?}");
    }
    let huge = json!({ "boxes": [{ "kind": "tensor", "name": "model.norm.weight",
        "area": { "global_offsets": [u64::MAX], "sizes": [u64::MAX] } }] });
    let answer = served.ask("POST", target, &[], huge.to_string().as_bytes()).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    let nested = "[".repeat(1 << 20);
    assert_eq!(served.ask("POST", target, &[], nested.as_bytes()).await.status, 400);
    let long = served.ask("POST", target, &[("Content-Length", "16777217")], b"").await;
    assert_eq!(long.status, 413, "{long:?}");
    let dataset = served.ask("POST", "/v1/projects/p/checkpoints/data/1/plan", &[], b"{\"boxes\": []}").await;
    assert_eq!(dataset.status, 400, "{dataset:?}");
    served.check_alive().await;
}
