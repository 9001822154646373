//! Documents on a bad way: plans that say where bytes belong, parts and commits. A bit that flips in one is seen, and
//! what is lost is sent again: a step is committed once, with the bytes that were saved.

use std::sync::Arc;
use std::time::Duration;

use gigastore_client::checkpoint::Wanted;
use gigastore_client::store::Store;
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::sink::BufferSink;
use gigastore_client::transport::http::Deadlines;
use gigastore_formats::tensor::slice::SliceKind;
use gigastore_server::Limits;
use gigastore_tests::model::{Size, Tensor, transformer};
use gigastore_tests::opened::save;
use gigastore_tests::raw::Answer;

use crate::proxy::{Asked, Misdeed, Proxy};
use crate::served::spec;
use crate::weather::{Road, SOON, client, client_of, restored, restored_of};

async fn planned(road: &Road) -> Result<Vec<Vec<u8>>, String> {
    planned_by(&client(road.proxy.address), &road.tensors).await
}

/// Restores all tensors by one plan; the bytes that came.
async fn planned_by(store: &Store, tensors: &[Tensor]) -> Result<Vec<Vec<u8>>, String> {
    let sinks: Vec<_> = tensors.iter().map(|tensor| BufferSink::new(vec![7; tensor.data.len()])).collect();
    let wanted = tensors.iter().zip(&sinks).map(|(tensor, sink)| Wanted {
        kind: SliceKind::Tensor,
        name: tensor.name.clone(),
        area: None,
        sink: Arc::<BufferSink<Vec<u8>>>::clone(sink),
    });
    let (target, progress) = ("p/run@1".parse().unwrap(), Progress::default());
    let restored = store.restore(&target, wanted.collect(), &progress);
    let restored = tokio::time::timeout(SOON, restored).await.expect("a restore hangs");
    restored.map_err(|error| error.to_string())?;
    Ok(sinks.into_iter().map(|sink| sink.into_inner().unwrap()).collect())
}

fn plans(asked: &[Asked]) -> usize {
    asked.iter().filter(|one| one.target.ends_with("/plan")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_a_plan_moves_no_byte() {
    let road = Road::new(Limits::default()).await;
    let expected: Vec<&[u8]> = road.tensors.iter().map(|tensor| &tensor.data[..]).collect();
    assert_eq!(planned(&road).await.unwrap(), expected);
    for at in (0..24).map(|i| 100 + i * 397) {
        let before = plans(&road.proxy.asked());
        road.proxy.spoil_those(|asked, _| asked.target.ends_with("/plan"), 1, Misdeed::Flip(at));
        assert!(planned(&road).await.unwrap() == expected, "byte {at} flipped");
        assert_eq!(plans(&road.proxy.asked()) - before, 2, "byte {at} flipped");
    }
    road.proxy.spoil_those(|asked, _| asked.target.ends_with("/plan"), usize::MAX, Misdeed::Flip(700));
    let error = planned(&road).await.unwrap_err();
    assert!(error.contains("damaged on its way"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_bad_for_ever_is_left_for_one_that_is_sound() {
    let road = Road::new(Limits::default()).await;
    let bad = Proxy::before(road.served.address).await;
    let expected: Vec<&[u8]> = road.tensors.iter().map(|tensor| &tensor.data[..]).collect();
    // No more than the least number of tries, as where a stall is most of the patience.
    let deadlines = Deadlines { stall: Duration::from_secs(1), patience: Duration::from_millis(1500) };
    let drip = Misdeed::Drip(Duration::from_millis(100));
    for misdeed in [Misdeed::Stall(0), Misdeed::Silence, Misdeed::Close(3), Misdeed::Flip(900), drip] {
        let documents = !matches!(misdeed, Misdeed::Flip(_));
        for endpoints in [[bad.address, road.proxy.address], [road.proxy.address, bad.address]] {
            let spoilt = move |asked: &Asked, answer: &Answer| {
                !answer.body.is_empty() && (documents || asked.target.ends_with("/plan"))
            };
            bad.spoil_those(spoilt, usize::MAX, misdeed);
            let store = client_of(&endpoints, None, deadlines);
            assert!(planned_by(&store, &road.tensors).await.unwrap() == expected, "{misdeed:?}");
        }
    }
    assert!(!bad.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_through_bad_weather_is_made_once_with_the_right_bytes() {
    let road = Road::new(Limits::default()).await;
    let all = |asked: &Asked| asked.method != "GET";
    let drip = Misdeed::Drip(Duration::from_millis(100));
    let misdeeds = [Misdeed::Reset(0), Misdeed::Close(0), Misdeed::Stall(0), Misdeed::Silence, Misdeed::Flip(20), drip];
    for (step, misdeed) in (2..).zip(misdeeds) {
        let tensors: Vec<Tensor> = transformer(step, Size::TINY);
        road.proxy.spoil_those(move |asked, answer| all(asked) && !answer.body.is_empty(), 2, misdeed);
        let store = client(road.proxy.address);
        let saved = tokio::time::timeout(4 * SOON, save(&store, spec("p", "run", step, 2), &tensors)).await;
        let (committed, _) = saved.expect("a save hangs").unwrap_or_else(|error| panic!("{misdeed:?}: {error}"));
        assert_eq!(committed.info.commit.number, step);
        let read = restored_of(&road.served.store(None), &format!("p/run@{step}"), &tensors).await;
        assert_eq!(read, Ok(()), "{misdeed:?}");
    }
    // The step from before is what it was.
    restored(&road.served.store(None), &road.tensors).await.unwrap();
    road.served.check_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_on_the_way_up_is_sent_again_or_refused() {
    let road = Road::new(Limits::default()).await;
    let tensors = transformer(9, Size::TINY);
    for (step, times) in (2..).zip([1, 2, 3, 4]) {
        road.proxy.flip_requests(times);
        save(&client(road.proxy.address), spec("p", "run", step, 2), &tensors).await.unwrap();
        assert_eq!(road.proxy.flips_left(), 0);
        restored_of(&road.served.store(None), &format!("p/run@{step}"), &tensors).await.unwrap();
    }
    road.proxy.flip_requests(usize::MAX);
    let saved = tokio::time::timeout(SOON, save(&client(road.proxy.address), spec("p", "run", 9, 1), &tensors)).await;
    let error = saved.expect("a save hangs").unwrap_err().to_string();
    assert!(error.contains("damaged on its way"), "{error}");
    road.proxy.flip_requests(0);
    assert!(road.served.store(None).checkpoint(&"p/run@9".parse().unwrap()).await.is_err(), "half a save is visible");
}
