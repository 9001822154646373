//! Cursors of a data stream, made by hand, with what some ranks saw.
//!
//! Must never need a dataset: what a cursor says is not looked at where it is only kept.

use gigastore_formats::digest::Digest;
use gigastore_formats::order::{
    ALGORITHM, CURSOR_FORMAT, Cursor, OrderSpec, Packing, SampleHasher, Seen, SourceCursor, Unit, Weight,
};

/// Tokens of each sample.
const TOKENS: [u8; 4] = *b"abcd";

/// Returns the cursor of a stream of dataset `demo/web@3` after `samples` samples, of which those at `positions` were
/// seen by whom it is of.
pub fn cursor(samples: u64, positions: impl IntoIterator<Item = u64>) -> Cursor {
    let source = SourceCursor {
        dataset: "demo/web@3".to_owned(),
        order: Digest::of(b"web").into(),
        spec: OrderSpec { seed: Some(7), lanes: 2, window: 4, packing: Packing::Concat { seq_len: 2 } },
        weight: Weight::of(&[1.0]).expect("a weight")[0],
        weighed: 2 * samples,
        samples,
        counted: 2 * samples,
        epoch: 1,
        next: 0,
        lanes: vec![(samples as u32, 0), (samples as u32, 1)],
    };
    let (mut seen, mut hasher) = (Seen::default(), SampleHasher::default());
    for position in positions {
        let digest = hasher.digest(position, 0, 2, [(2, true)].into_iter(), &TOKENS);
        seen.add(&Seen { digest, samples: 1, tokens: 2, documents: 1, missing: 0 });
    }
    Cursor {
        format: CURSOR_FORMAT.to_owned(),
        algorithm: ALGORITHM,
        samples,
        unit: Unit::Tokens,
        counted: 2 * samples,
        sources: vec![source],
        seen,
    }
}
