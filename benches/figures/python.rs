//! The Python package: beside the client in Rust with the same bytes, and under PyTorch's DCP beside DCP's own files.
//!
//! Must never compare what is durable with what is not: all saves end on the disk.

use gigastore_benches::copies;
use gigastore_client::checkpoint::Compression;
use gigastore_client::store::{OpenMode, Store};

use crate::clock::{Pairs, timed};
use crate::peer::{Peer, write_state};
use crate::state::State;
use crate::{Plan, Res};

/// Rows of our adapter beside the peer that has the same interface: the row's name, and the verb of both programs.
const DCP: [(&str, &str); 3] =
    [("python.dcp.save", "save"), ("python.dcp.load", "load"), ("python.dcp.load_quarter", "load_quarter")];

/// `python.*`: warm, where something is loaded.
pub(crate) async fn python(plan: &Plan) -> Res<()> {
    let state = State::transformer(plan.bytes())?;
    let folder = plan.folder()?;
    write_state(&state, folder.path())?;
    if plan.wants("python.save") || plan.wants("python.load") {
        plain(plan, &state, folder.path()).await?;
    }
    if plan.wants_any("python.dcp.") {
        dcp(plan, &state, folder.path())?;
    }
    if plan.wants_any("python.stall") {
        stall(plan, &state, folder.path())?;
    }
    Ok(folder.close()?)
}

/// Tells whether ours goes first in this run: every other time, so that what one leaves behind is not always the
/// other's.
fn in_turn(run: usize) -> bool {
    !run.is_multiple_of(2)
}

async fn plain(plan: &Plan, state: &State, folder: &std::path::Path) -> Res<()> {
    let mut buffers = state.buffers();
    let work = plan.folder()?;
    let mut peer = Peer::start("gigastore_plain", folder, &work.path().display().to_string(), &[])?;
    let (mut saves, mut loads) = (Pairs::default(), Pairs::default());
    for run in 0..plan.runs() {
        eprintln!("bench: python, run {}", run + 1);
        let ours = plan.folder()?;
        let store = Store::open(&format!("file://{}", ours.path().display()), OpenMode::Create).await?;
        let first = if in_turn(run) { Some(peer.save(plan)?) } else { None };
        plan.fill_memory()?;
        let saved = state.save(std::slice::from_ref(&store), Compression::Off).await?;
        saves.push(saved, first.map_or_else(|| peer.save(plan), Ok)?);
        // One more of each, so that both are warm.
        state.restore(&store, &mut buffers).await?;
        peer.seconds("load")?;
        loads.push(state.restore(&store, &mut buffers).await?.seconds, peer.seconds("load")?);
        ours.close()?;
    }
    saves.report(plan, "python.save", state.bytes(), "limit: the client in Rust, same bytes, same run")?;
    loads.report(
        plan,
        "python.load",
        state.bytes(),
        "limit: the client in Rust, same bytes, same run; warm, in place",
    )?;
    Ok(work.close()?)
}

fn dcp(plan: &Plan, state: &State, folder: &std::path::Path) -> Res<()> {
    let (here, there) = (plan.folder()?, plan.folder()?);
    let mut ours = Peer::start("gigastore_dcp", folder, &here.path().display().to_string(), &[])?;
    let mut theirs = Peer::start("dcp_files", folder, &there.path().display().to_string(), &[])?;
    let mut rows = DCP.map(|(row, verb)| (row, verb, Pairs::default()));
    for run in 0..plan.runs() {
        eprintln!("bench: python.dcp, run {}", run + 1);
        for (_, verb, pairs) in &mut rows {
            let seconds = |peer: &mut Peer| if *verb == "save" { peer.save(plan) } else { peer.seconds(verb) };
            let first = if in_turn(run) { Some(seconds(&mut ours)?) } else { None };
            pairs.push(seconds(&mut theirs)?, first.map_or_else(|| seconds(&mut ours), Ok)?);
        }
    }
    for (row, verb, pairs) in rows {
        let (bytes, what) = match verb {
            "load_quarter" => (state.bytes() / 4, "rows of one rank of four, saved by one; "),
            _ => (state.bytes(), ""),
        };
        let note = format!("{what}limit: DCP with its own writer and reader of files, both durable; warm, in place");
        pairs.report(plan, row, bytes, &note)?;
    }
    here.close()?;
    Ok(there.close()?)
}

/// `python.stall.*`: how long `async_save` stops its caller.
fn stall(plan: &Plan, state: &State, folder: &std::path::Path) -> Res<()> {
    let tensors: Vec<&[u8]> = state.tensors.iter().map(|tensor| tensor.data.as_ref()).collect();
    let mut staging = vec![1; state.memory.len()];
    for (row, program) in [("python.stall", "gigastore_stall"), ("python.stall_dcp", "dcp_stall")] {
        if !plan.wants(row) {
            continue;
        }
        let work = plan.folder()?;
        let mut peer = Peer::start(program, folder, &work.path().display().to_string(), &[])?;
        let mut pairs = Pairs::default();
        // The first takes the memory that the others use again.
        peer.seconds("stall")?;
        for run in 0..plan.runs() {
            eprintln!("bench: {row}, run {}", run + 1);
            let limit = timed(|| {
                copies(&tensors, &mut staging);
                Res::Ok(())
            })?;
            pairs.push(limit, peer.seconds("stall")?);
        }
        pairs.report_milliseconds(plan, row, "limit: one copy into staging that is used again")?;
        work.close()?;
    }
    Ok(())
}
