//! `gigastore ckpt watch`
//!
//! Must never print a step that is not committed, nor one twice.

use std::time::{Duration, Instant};

use clap::Args;
use gigastore_formats::record::{Action, Commit, Sort};
use gigastore_formats::wire::FaultCode;
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, note, say, size};

/// How long one question for new records is held open.
const WAIT: Duration = Duration::from_secs(15);

/// Pause before a project is looked for again that is not there yet.
const PAUSE: Duration = Duration::from_secs(1);

/// Print each new step of a run as it is committed
///
/// Ends with --count steps, after --timeout (exit code 5), or at Ctrl-C. With --format json each
/// step is one line of JSON.
///
/// Examples:
///
///   gigastore ckpt watch demo/minilm | while read -r target rest; do evaluate "$target"; done
///
///   gigastore ckpt watch demo/minilm --count 1 --timeout 600
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Watch {
    /// PROJECT/RUN, or PROJECT for all its runs
    #[arg(value_name = "PROJECT[/RUN]")]
    what: String,
    /// Begin with the steps that are there already
    #[arg(long)]
    all: bool,
    /// Begin after this log record: the `seq` of the last step that was seen (in JSON), so that none is missed
    #[arg(long, value_name = "SEQ", conflicts_with = "all")]
    after: Option<u64>,
    /// End after so many steps
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl Watch {
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let (project, run) = super::super::ls::project_and_name(&self.what)?;
        let store = globals.open().await?;
        let until = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let left = || until.map_or(WAIT, |until| until.saturating_duration_since(Instant::now()).min(WAIT));
        let mut printed = 0;
        // A run may be watched before its first step: a project that is not there has no records yet.
        let mut after = match store.project(&project).await {
            Ok(info) if !self.all => self.after.unwrap_or(info.seq),
            Ok(_) => 0,
            Err(fault) if fault.code == FaultCode::NotFound => {
                if !globals.quiet {
                    note(&format_args!("project {project} has nothing yet; waiting"));
                }
                0
            }
            Err(fault) => return Err(fault.into()),
        };
        loop {
            if self.count.is_some_and(|count| printed >= count) {
                return Ok(());
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                let seconds = self.timeout.unwrap_or_default();
                let text = format!("{printed} steps of {} in {seconds} s", self.what);
                return Err(Failure::retryable(text));
            }
            let records = match store.records(&project, after, left()).await {
                Ok(records) => records,
                Err(fault) if fault.code == FaultCode::NotFound => {
                    tokio::time::sleep(PAUSE.min(left())).await;
                    continue;
                }
                Err(fault) => return Err(fault.into()),
            };
            for record in records {
                after = record.seq;
                for entry in &record.entries {
                    let Action::Commit(commit) = &entry.action else { continue };
                    let wanted = commit.sort == Sort::Checkpoint && run.as_ref().is_none_or(|run| *run == commit.name);
                    // An entry that lost a race stands in the log without effect.
                    if wanted && self.count.is_none_or(|count| printed < count) {
                        let target = format!("{project}/{}@{}", commit.name, commit.number);
                        if is_live(&store, &target, record.seq).await? {
                            print(globals, &target, commit, record.seq, entry.time);
                            printed += 1;
                        }
                    }
                }
            }
        }
    }
}

/// Tells whether the record made the step visible, and it was not dropped since.
async fn is_live(store: &gigastore_client::store::Store, target: &str, seq: u64) -> Result<bool, Failure> {
    let target =
        target.parse().map_err(|error: gigastore_formats::name::NameError| Failure::usage(error.to_string()))?;
    match store.resolve(&target).await {
        Ok(info) => Ok(info.seq == seq),
        Err(fault) if matches!(fault.code, FaultCode::NotFound | FaultCode::Gone) => Ok(false),
        Err(fault) => Err(fault.into()),
    }
}

fn print(globals: &Globals, target: &str, commit: &Commit, seq: u64, time: u64) {
    if globals.json() {
        say(&json!({
            "target": target, "run": commit.name, "step": commit.number, "bytes": commit.bytes,
            "content": commit.content, "seq": seq, "time_ms": time,
        }));
    } else {
        say(&format_args!("{target}  {}  {}", size(commit.bytes), moment(time)));
    }
}
