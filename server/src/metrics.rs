//! What `/metrics` shows, in the format of Prometheus. Every name stands here.
//!
//! Must never have a label whose values a client chooses, but for projects that are there, nor show a project to who
//! may not see it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gigastore_cache::Tier;
use gigastore_formats::collect::CollectReport;
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::TxnId;
use gigastore_formats::retention::RetainReport;
use gigastore_formats::wire::{Coverage, Fault, FaultCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::auth::Gate;
use crate::cache::Cache;

/// Borders of latencies in seconds: a millisecond to half a minute.
const LATENCIES: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// Open saves that are counted: 100,000 of 32 bytes.
const OPEN_SAVES: usize = 100_000;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Route {
    route: &'static str,
    method: &'static str,
    status: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Place {
    route: &'static str,
}

/// The numbers of one service.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Route, Counter>,
    seconds: Family<Place, Histogram>,
    /// Bytes of bodies that came in.
    pub(crate) received: Counter,
    /// Bytes of bodies that went out.
    pub(crate) sent: Counter,
    /// Uploads, answers and verifications that found bytes other than promised.
    pub(crate) verification_failures: Counter,
    /// Decoded manifests that were kept, and those that had to be read.
    pub(crate) manifests_kept: Counter,
    pub(crate) manifests_read: Counter,
    /// Opened groups of slices that were kept, and those that had to be read.
    pub(crate) groups_kept: Counter,
    pub(crate) groups_read: Counter,
    /// Bytes that the scrub has read.
    pub(crate) scrubbed: Counter,
    /// Damaged objects that were put right.
    pub(crate) repaired: Counter,
    memory: Gauge<u64, AtomicU64>,
    connections: Gauge<u64, AtomicU64>,
    /// Collections that were begun by the service itself and failed.
    pub(crate) collection_failures: Counter,
    collected: Counter,
    dropped: Counter,
    collections: Mutex<BTreeMap<ProjectName, Duration>>,
    log: Mutex<BTreeMap<ProjectName, u64>>,
    scrubs: Mutex<BTreeMap<ProjectName, Coverage>>,
    saves: Gauge<u64, AtomicU64>,
    open: Mutex<BTreeSet<TxnId>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new(cache: &Arc<Cache>, gate: &Gate) -> Self {
        let mut registry = Registry::with_prefix("gigastore");
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            received: Counter::default(),
            sent: Counter::default(),
            verification_failures: Counter::default(),
            manifests_kept: Counter::default(),
            manifests_read: Counter::default(),
            groups_kept: Counter::default(),
            groups_read: Counter::default(),
            scrubbed: Counter::default(),
            repaired: Counter::default(),
            memory: Gauge::default(),
            connections: Gauge::default(),
            collection_failures: Counter::default(),
            collected: Counter::default(),
            dropped: Counter::default(),
            collections: Mutex::default(),
            log: Mutex::default(),
            scrubs: Mutex::default(),
            saves: Gauge::default(),
            open: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register_with_unit("request", "Time to the head of an answer", Unit::Seconds, metrics.seconds.clone());
        registry.register_with_unit("received", "Bytes of bodies received", Unit::Bytes, metrics.received.clone());
        registry.register_with_unit("sent", "Bytes of bodies sent", Unit::Bytes, metrics.sent.clone());
        let failures = metrics.verification_failures.clone();
        registry.register("verification_failures", "Bytes that were not what was promised", failures);
        registry.register("manifests_kept", "Manifests found decoded", metrics.manifests_kept.clone());
        registry.register("manifests_read", "Manifests that had to be read", metrics.manifests_read.clone());
        registry.register("groups_kept", "Groups of slices found opened", metrics.groups_kept.clone());
        registry.register("groups_read", "Groups of slices that had to be read", metrics.groups_read.clone());
        let help = "Bytes verified by scrubs";
        registry.register_with_unit("scrubbed", help, Unit::Bytes, metrics.scrubbed.clone());
        registry.register("repaired_objects", "Damaged objects that were put right", metrics.repaired.clone());
        registry.register_with_unit("memory", "Memory given to requests", Unit::Bytes, metrics.memory.clone());
        registry.register_collector(Box::new(Kept(Arc::clone(cache))));
        let failures = gate.failures.clone();
        registry.register("token_reload_failures", "Times that a changed token file could not be read", failures);
        let failures = metrics.collection_failures.clone();
        registry.register("collection_failures", "Collections of the service itself that failed", failures);
        let collected = metrics.collected.clone();
        registry.register_with_unit("collected", "Bytes that collections deleted", Unit::Bytes, collected);
        registry.register("retention_drops", "Steps and versions that retention dropped", metrics.dropped.clone());
        registry.register("connections", "Connections that are open", metrics.connections.clone());
        registry.register("open_saves", "Saves begun here and not yet finished or aborted", metrics.saves.clone());
        Self { registry, ..metrics }
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Route { route, method, status: u32::from(status) }).inc();
        self.seconds.get_or_create(&Place { route }).observe(took.as_secs_f64());
    }

    /// Counts a fault if it says that bytes are not what was promised.
    pub(crate) fn fault(&self, fault: &Fault) {
        if matches!(fault.code, FaultCode::BadUpload | FaultCode::Integrity | FaultCode::Lost) {
            self.verification_failures.inc();
        }
    }

    /// Notes the newest record of a project. Called for projects that have a log only.
    pub(crate) fn log(&self, project: &ProjectName, seq: u64) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).insert(project.clone(), seq);
    }

    /// Notes how much of a project scrubs have verified.
    pub(crate) fn coverage(&self, project: &ProjectName, coverage: Coverage) {
        self.scrubs.lock().unwrap_or_else(PoisonError::into_inner).insert(project.clone(), coverage);
    }

    /// Notes a collection that ended now.
    pub(crate) fn collection(&self, project: &ProjectName, report: &CollectReport, now: Duration) {
        self.collected.inc_by(report.deleted().bytes);
        self.collections.lock().unwrap_or_else(PoisonError::into_inner).insert(project.clone(), now);
    }

    /// Notes what retention dropped.
    pub(crate) fn retention(&self, report: &RetainReport) {
        self.dropped.inc_by(report.names.iter().map(|one| one.dropped.len() as u64).sum());
    }

    /// Notes a save that was begun here.
    pub(crate) fn save_begun(&self, save: TxnId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() < OPEN_SAVES {
            open.insert(save);
        }
        self.saves.set(open.len() as u64);
    }

    /// Notes a save that was finished or aborted.
    pub(crate) fn save_ended(&self, save: TxnId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&save);
        self.saves.set(open.len() as u64);
    }

    /// Returns the text of `/metrics`: of projects, only those that its reader may see.
    pub(crate) fn text(&self, now: &Now, may_see: impl Fn(&ProjectName) -> bool) -> Result<String, fmt::Error> {
        self.memory.set(now.memory);
        self.connections.set(now.connections);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        // The registry knows nothing of readers; projects go in before its last line. Their names need no escapes.
        let body = text.strip_suffix(END).map_or(text.len(), str::len);
        text.truncate(body);
        writeln!(text, "# HELP gigastore_log_sequence Number of the newest log record seen.")?;
        writeln!(text, "# TYPE gigastore_log_sequence gauge")?;
        for (project, seq) in self.log.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if may_see(project) {
                writeln!(text, "gigastore_log_sequence{{project=\"{project}\"}} {seq}")?;
            }
        }
        writeln!(text, "# HELP gigastore_collection_age_seconds Time since a collection of the project ended here.")?;
        writeln!(text, "# TYPE gigastore_collection_age_seconds gauge")?;
        for (project, ended) in self.collections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if may_see(project) {
                let age = now.monotonic.saturating_sub(*ended).as_secs();
                writeln!(text, "gigastore_collection_age_seconds{{project=\"{project}\"}} {age}")?;
            }
        }
        let scrubs = self.scrubs.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, number) in SCRUBBED {
            writeln!(text, "# HELP gigastore_{name} {help}.")?;
            writeln!(text, "# TYPE gigastore_{name} gauge")?;
            for (project, coverage) in scrubs.iter().filter(|(project, _)| may_see(project)) {
                if let Some(number) = number(coverage) {
                    writeln!(text, "gigastore_{name}{{project=\"{project}\"}} {number}")?;
                }
            }
        }
        text.push_str(END);
        Ok(text)
    }
}

/// What is said of the scrubs of each project; times in seconds since 1970.
type OfScrub = fn(&Coverage) -> Option<u64>;
const SCRUBBED: [(&str, &str, OfScrub); 5] = [
    ("scrub_objects", "Packs and files that live commits refer to", |scrub| Some(scrub.objects)),
    ("scrub_verified_objects", "Those of them that were ever verified whole", |scrub| Some(scrub.verified)),
    ("scrub_oldest_timestamp_seconds", "When the one verified longest ago was verified", |scrub| {
        scrub.oldest.map(|ms| ms / 1000)
    }),
    ("scrub_completed_timestamp_seconds", "When a pass over everything came to its end", |scrub| {
        scrub.completed.map(|ms| ms / 1000)
    }),
    ("damaged_objects", "Objects that are marked as damaged", |scrub| Some(scrub.damaged)),
];

/// What the cache counts, each number of both tiers.
type OfTier = fn(&Tier) -> u64;
const COUNTED: [(&str, &str, OfTier); 6] = [
    ("cache_hits", "Blocks of objects found there", |tier| tier.hits),
    ("cache_misses", "Blocks of objects not found there", |tier| tier.misses),
    ("cache_evictions", "Blocks of objects that made room for others", |tier| tier.evictions),
    ("cache_errors", "Failures of the file system; blocks come from the store then", |tier| tier.errors),
    ("cache_damaged", "Files of blocks that were not what they should be, and were removed", |tier| tier.damaged),
    ("cache_skipped", "Blocks not written, as the disk was behind or had just failed", |tier| tier.skipped),
];

/// The numbers of the cache, read when they are asked for.
#[derive(Debug)]
struct Kept(Arc<Cache>);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Where {
    tier: &'static str,
}

impl Collector for Kept {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (memory, disk) = self.0.counts();
        let tiers = [("memory", Some(memory)), ("disk", disk)];
        let tiers = tiers.into_iter().filter_map(|(tier, counts)| Some((Where { tier }, counts?)));
        for (name, help, number) in COUNTED {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (place, counts) in tiers.clone() {
                ConstCounter::new(number(&counts)).encode(family.encode_family(&place)?)?;
            }
        }
        let help = "Blocks of objects kept; on the disk by all processes, as last seen";
        let mut family = encoder.encode_descriptor("cache", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (place, counts) in tiers {
            ConstGauge::new(counts.bytes).encode(family.encode_family(&place)?)?;
        }
        Ok(())
    }
}

/// The last line of the format.
const END: &str = "# EOF\n";

/// What is measured when it is asked for.
#[derive(Debug)]
pub(crate) struct Now {
    /// Memory given to requests.
    pub(crate) memory: u64,
    /// Connections that are open.
    pub(crate) connections: u64,
    /// Time since some fixed moment.
    pub(crate) monotonic: Duration,
}
