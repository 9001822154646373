//! Reads a dataset as a trainer does, stops in the middle, and goes on from the cursor.
//!
//! `cargo run --release -p gigastore-client --example stream -- file:///DIR project/dataset [STEPS]`

use std::time::Instant;

use gigastore_client::dataset::stream::{Stream, StreamOptions};
use gigastore_client::store::{OpenMode, Store};
use gigastore_formats::order::{Cursor, Packing};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, target, steps @ ..] = arguments.as_slice() else {
        return Err("usage: stream URL PROJECT/DATASET [STEPS]".into());
    };
    let steps = steps.first().map_or(Ok(u64::MAX), |steps| steps.parse())?;
    let store = Store::open(url, OpenMode::Existing).await?;

    // Eight sequences of 2,048 tokens a batch, shuffled with seed 1.
    let mut options = StreamOptions::new(target.parse()?, 1, Packing::Concat { seq_len: 2048 }, 8);
    let mut stream = store.stream(options.clone()).await?;
    train(&mut stream, steps).await?;

    // What a trainer keeps with its checkpoint is all that another one needs, whatever its number of ranks.
    let cursor = stream.cursor().json();
    options.cursor = Some(Cursor::parse(cursor.as_bytes())?);
    let mut again = store.stream(options).await?;
    train(&mut again, u64::MAX).await?;
    let seen = again.cursor().seen;
    println!("seen in all: {} samples, {} tokens, digest {}", seen.samples, seen.tokens, String::from(seen.digest));
    Ok(())
}

async fn train(stream: &mut Stream, steps: u64) -> Result<(), Box<dyn std::error::Error>> {
    let (began, mut tokens, mut batches) = (Instant::now(), 0, 0);
    while batches < steps
        && let Some(batch) = stream.next().await?
    {
        batches += 1;
        tokens += batch.seen.tokens;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{batches} batches, {tokens} tokens, {:.1} M tokens/s", tokens as f64 / seconds / 1e6);
    Ok(())
}
