//! Files that tensors make of packs of both versions: whichever pack a group was read of first, each answer has the
//! bytes of the file.

use gigastore_client::checkpoint::{Compression, SaveSpec};
use gigastore_formats::limits::{GROUP_BYTES, PACK_1_GROUP_BYTES};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_server::Limits;
use gigastore_tests::model::{Tensor, XorShift};
use gigastore_tests::old::save_old;
use gigastore_tests::opened::save;
use gigastore_tests::raw::ask;

use crate::served::{Served, spec};

/// A tensor of less than a group, one of a group of version 1 that is several now, and one of several of both.
fn tensors() -> Vec<Tensor> {
    let mut random = XorShift::new(6);
    let mut make = |name: &str, rows: u64| {
        let data = random.bytes(rows as usize * 4000).iter().map(|byte| byte & 0x31).collect::<Vec<u8>>().into();
        Tensor { name: name.to_owned(), dtype: Dtype::F32, shape: vec![rows, 1000], data }
    };
    let tensors = vec![make("a", 20), make("b", 200), make("c", 700)];
    let lens: Vec<u64> = tensors.iter().map(|tensor| tensor.data.len() as u64).collect();
    assert!(lens[0] < GROUP_BYTES && lens[1] > 2 * GROUP_BYTES && lens[1] < PACK_1_GROUP_BYTES);
    assert!(lens[2] > 2 * PACK_1_GROUP_BYTES);
    tensors
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_in_both_versions_makes_the_same_file_in_any_order() {
    let both = [Compression::Off, Compression::Always];
    for (before, now) in both.into_iter().flat_map(|before| both.map(|now| (before, now))) {
        let (served, tensors) = (Served::new().await, tensors());
        let old = SaveSpec { compress: before, ..spec("p", "run", 1, 1) };
        save_old(&served.engine, old, &tensors).await.unwrap();
        let store = served.store(None);
        let new = SaveSpec { compress: now, dedup: false, ..spec("p", "run", 2, 1) };
        save(&store, new, &tensors).await.unwrap();
        // Of the third some tensors lie in the old pack.
        let mut mixed = tensors.clone();
        mixed[1].data = XorShift::new(7).bytes(mixed[1].data.len());
        save(&store, SaveSpec { compress: now, ..spec("p", "run", 3, 1) }, &mixed).await.unwrap();

        let data = |tensors: &[Tensor]| tensors.iter().flat_map(|tensor| tensor.data.to_vec()).collect::<Vec<u8>>();
        let (same, other) = (data(&tensors), data(&mixed));
        let of = |step| if step == 3 { &other } else { &same };
        for order in [[1, 2, 3], [2, 1, 3], [3, 2, 1]] {
            // A service that has nothing in memory.
            let (address, _) = Served::another(&served.store_folder(), None, Limits::default(), false).await;
            let mut random = XorShift::new(8);
            for _ in 0..30 {
                let start = random.below(same.len() as u64);
                let longest = [100, 300_000, 2 << 20][random.below(3) as usize].min(same.len() as u64 - start);
                let end = start + 1 + random.below(longest);
                for step in order {
                    let target = format!("/v1/projects/p/checkpoints/run/{step}/files/model.safetensors");
                    let head = ask(address, "HEAD", &target, &[], b"").await.unwrap();
                    let len: u64 = head.header("content-length").unwrap().parse().unwrap();
                    let header = len - same.len() as u64;
                    let range = format!("bytes={}-{}", header + start, header + end - 1);
                    let answer = ask(address, "GET", &target, &[("Range", &range)], b"").await.unwrap();
                    assert_eq!(answer.status, 206, "{}", answer.text());
                    let expected = &of(step)[start as usize..end as usize];
                    assert!(answer.body == expected, "{before:?}, {now:?}, {order:?}: {range} of step {step}");
                }
            }
            for step in order {
                let target = format!("/v1/projects/p/checkpoints/run/{step}/files/model.safetensors");
                let answer = ask(address, "GET", &target, &[], b"").await.unwrap();
                assert!(answer.whole && answer.body.ends_with(of(step)), "step {step}, {order:?}");
            }
        }
    }
}
