//! The rows of the bench: what is measured, in which unit, and what it should reach.
//!
//! Must never hold a measured number: targets only.

use serde::{Deserialize, Serialize};

/// What a row should reach: its ratio to the limit where it has one, else its value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// For information: what others do, and what depends on them.
    None,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Rows of one group are measured by one process, in turns.
    pub(crate) group: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
}

/// One row as it was measured: a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) limit: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) target: Option<f64>,
    pub(crate) lower_is_better: bool,
    pub(crate) note: String,
}

use Target::{AtLeast, AtMost, None as Free};

const GBS: &str = "GB/s";

const TOKENS: &str = "M tokens/s";

const fn row(name: &'static str, group: &'static str, unit: &'static str, target: Target) -> Row {
    Row { name, group, unit, target }
}

/// Every row, in the order in which they are measured.
pub(crate) const ROWS: &[Row] = &[
    row("save.file", "save", GBS, AtLeast(0.95)),
    row("save.service.1ranks", "save", GBS, AtLeast(0.90)),
    row("save.service.4ranks", "save", GBS, AtLeast(0.90)),
    row("save.service.16ranks", "save", GBS, AtLeast(0.90)),
    row("restore.file.warm", "restore", GBS, AtLeast(1.0)),
    row("restore.file.cold", "restore", GBS, AtLeast(0.85)),
    row("restore.service.warm", "restore", GBS, AtLeast(0.62)),
    row("restore.service.cpu", "restore", "core-s/GB", AtMost(1.0)),
    row("fanout.16clients", "fanout", "GB", AtMost(1.05)),
    row("restore.adaptive", "adaptive", GBS, AtLeast(0.90)),
    row("seaweed.restore.embedded", "seaweed", GBS, AtLeast(3.0)),
    row("seaweed.restore.service", "seaweed", GBS, AtLeast(6.0)),
    row("seaweed.save", "seaweed", GBS, AtLeast(0.85)),
    row("plan.one_tensor.embedded.bytes", "plan", "MiB", AtMost(16.0)),
    row("plan.one_tensor.embedded.ms", "plan", "ms", AtMost(50.0)),
    row("plan.one_tensor.service.bytes", "plan", "KiB", AtMost(64.0)),
    row("plan.one_tensor.service.ms", "plan", "ms", AtMost(50.0)),
    row("plan.fsdp_rank.ms", "plan", "ms", AtMost(50.0)),
    row("log.commits.file", "log", "commits/s", AtLeast(4.0)),
    row("log.p99.file", "log", "ms", AtMost(4.0)),
    row("log.p99.raw", "log", "ms", Free),
    row("log.commits.seaweed", "log", "commits/s", AtLeast(4.0)),
    row("log.p99.seaweed", "log", "ms", AtMost(4.0)),
    row("log.commits.remote", "log", "commits/s", AtLeast(4.0)),
    row("log.p99.remote", "log", "ms", AtMost(4.0)),
    row("log.open", "log", "s", AtMost(1.0)),
    row("log.collect", "log", "s", AtMost(60.0)),
    row("async.stall", "async", "ms", AtMost(1.15)),
    row("coded.save", "coded", GBS, AtLeast(1.2)),
    row("coded.elsewhere", "coded", GBS, AtLeast(0.95)),
    row("python.save", "python", GBS, AtLeast(0.95)),
    row("python.load", "python", GBS, AtLeast(0.95)),
    row("python.dcp.save", "python", GBS, AtLeast(1.15)),
    row("python.dcp.load", "python", GBS, AtLeast(2.0)),
    row("python.dcp.load_quarter", "python", GBS, AtLeast(8.0)),
    row("python.stall", "python", "ms", AtMost(1.15)),
    row("python.stall_dcp", "python", "ms", Free),
    row("peers.torch.save", "peers", GBS, Free),
    row("peers.torch.load", "peers", GBS, Free),
    row("peers.torch.load_mmap", "peers", GBS, Free),
    row("peers.safetensors.save", "peers", GBS, Free),
    row("peers.safetensors.load", "peers", GBS, Free),
    row("peers.dcp.save", "peers", GBS, Free),
    row("peers.dcp.load", "peers", GBS, Free),
    row("peers.s3torchconnector.save", "seaweed", GBS, Free),
    row("peers.s3torchconnector.load", "seaweed", GBS, Free),
    row("peers.object_store.put", "seaweed", GBS, Free),
    row("peers.object_store.get", "seaweed", GBS, Free),
    row("peers.http.get", "seaweed", GBS, Free),
    row("data.open", "data", "ms", AtMost(100.0)),
    row("data.tokenize", "data", TOKENS, AtLeast(0.90)),
    row("data.zstd", "data", TOKENS, AtLeast(0.35)),
    row("data.uncompressed", "data", TOKENS, AtLeast(0.60)),
    row("data.beside_litdata", "data", TOKENS, AtLeast(3.0)),
    row("data.beside_litdata.uncompressed", "data", TOKENS, AtLeast(3.0)),
    row("data.beside_pyarrow", "data", TOKENS, AtLeast(1.8)),
    row("data.peers.numpy_viewed", "data", TOKENS, Free),
    row("data.peers.litdata_stacked", "data", TOKENS, Free),
    row("data.peers.hf_arrow", "data", TOKENS, Free),
    row("data.peers.hf_parquet", "data", TOKENS, Free),
    row("data.peers.mosaic", "data", TOKENS, Free),
];

impl Row {
    /// Returns the figure of a value that stands for itself.
    pub(crate) fn of(&self, value: f64, note: String) -> Figure {
        self.figure(value, None, None, note)
    }

    /// Returns the figure of a value beside its limit.
    pub(crate) fn beside(&self, value: f64, limit: f64, ratio: f64, note: String) -> Figure {
        self.figure(value, Some(limit), Some(ratio), note)
    }

    fn figure(&self, value: f64, limit: Option<f64>, ratio: Option<f64>, note: String) -> Figure {
        let (target, lower_is_better) = match self.target {
            AtLeast(target) => (Some(target), false),
            AtMost(target) => (Some(target), true),
            Free => (None, ![GBS, TOKENS].contains(&self.unit)),
        };
        let (name, unit) = (self.name.to_owned(), self.unit.to_owned());
        Figure { name, value, unit, limit, ratio, target, lower_is_better, note }
    }

    /// Returns the target as it stands in the table.
    pub(crate) fn wish(&self) -> String {
        match self.target {
            AtLeast(target) => format!(">= {target}"),
            AtMost(target) => format!("<= {target}"),
            Free => "-".to_owned(),
        }
    }

    /// Tells whether a figure reaches the target.
    pub(crate) fn is_reached_by(&self, figure: &Figure) -> bool {
        let counts = figure.ratio.unwrap_or(figure.value);
        match self.target {
            AtLeast(target) => counts >= target,
            AtMost(target) => counts <= target,
            Free => true,
        }
    }
}

/// Returns the row of that name.
pub(crate) fn named(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
