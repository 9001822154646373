//! Verification: everything that live commits refer to is looked at, and what is not as it should be is reported
//! exactly.
//!
//! The log is read from its first record, without the folded cache; manifests and lists of packs are read whole; packs
//! and files by their lengths, a sample of them or all of them by every byte. Must never stop at the first damage, and
//! `verify` must never change anything: only `pass.rs` marks and repairs.
//!
//! | file | what |
//! |---|---|
//! | `plan.rs` | what there is to look at |
//! | `bodies.rs` | every byte of one object |
//! | `pace.rs` | bytes counted, and held to a rate |
//! | `pass.rs` | a scrub: all objects, those first that were verified longest ago |
//! | `times.rs` | when which object was verified last |
//! | `copies.rs` | other places that hold the same bytes |
//! | `repair.rs` | true bytes over damaged ones |
//! | `rebuild.rs` | a pack's header made anew |
//! | `dropped.rs` | what was dropped while it was looked at |

mod bodies;
mod copies;
mod dropped;
mod pace;
mod pass;
mod plan;
mod rebuild;
mod repair;
mod times;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::damage::DamageMark;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::MAX_RECORD_BYTES;
use gigastore_formats::moment::Moment;
use gigastore_formats::name::ProjectName;
use gigastore_formats::record::Record;
use gigastore_formats::wire::{Depth, Finding, VerifyProgress, VerifyReport, VerifyRequest, with_causes};

use crate::engine::Engine;
use crate::log::{LogError, State, read_record};
use crate::read::ReadError;
use crate::store::{StoreError, keys};

use pace::Meter;
use plan::{Item, Plan};

/// Objects verified at once: enough to keep a store and all cores busy; each holds one window of bytes.
const OBJECTS_IN_FLIGHT: usize = 4;

/// Takes progress as it comes.
pub(crate) type OnProgress<'a> = &'a (dyn Fn(VerifyProgress) + Send + Sync);

impl Engine {
    /// Verifies a project, or one run, dataset, step or version of it.
    ///
    /// What is damaged or can't be read is reported, not returned as an error; errors are for a store that does not
    /// answer at all.
    pub async fn verify(&self, request: &VerifyRequest, progress: OnProgress<'_>) -> Result<VerifyReport, ReadError> {
        let mut report = VerifyReport::default();
        let project = &request.project;
        let Some(state) = self.verified_state(project, &mut report).await? else { return Ok(report) };
        let plan = self.plan(request, &state, &mut report).await?;
        self.verify_objects(project, request.depth, plan, &mut report, progress).await?;
        self.without_dropped(request, &state, &mut report.findings).await?;
        report.findings.sort_by(|a, b| (&a.object, a.range).cmp(&(&b.object, b.range)));
        Ok(report)
    }

    /// Verifies the log and returns what it adds up to; `None` where it can't be read, which the report says then.
    async fn verified_state(
        &self,
        project: &ProjectName,
        report: &mut VerifyReport,
    ) -> Result<Option<Arc<State>>, ReadError> {
        self.verify_log(project, report).await?;
        match self.state(project).await {
            Ok(state) => Ok(Some(state)),
            // The damaged record is in the report; what it would have made visible can't be known.
            Err(LogError::Damaged { .. }) => Ok(None),
            Err(LogError::Store { source, .. }) => {
                if report.findings.is_empty() {
                    let affects = vec!["everything of this project".to_owned()];
                    report.findings.push(self.not_read(affects, source).await?);
                }
                Ok(None)
            }
        }
    }

    /// Reads every record from the first on. Stops at the first that is damaged: nothing after it can be trusted.
    async fn verify_log(&self, project: &ProjectName, report: &mut VerifyReport) -> Result<(), ReadError> {
        let (mut seq, mut head) = (0, Record::origin());
        loop {
            let key = keys::record(project, seq + 1);
            let found = match self.objects.get(&key, MAX_RECORD_BYTES).await {
                Ok(bytes) => read_record(project, &bytes, seq + 1, head).map_err(|error| with_causes(&error)),
                Err(StoreError::NotFound { .. }) => break,
                Err(error @ (StoreError::TooLong { .. } | StoreError::Short { .. })) => Err(error.to_string()),
                Err(error) => {
                    let affects = after_record(key, seq + 1, String::new()).affects;
                    report.findings.push(self.not_read(affects, error).await?);
                    return Ok(());
                }
            };
            match found {
                Ok((_, digest)) => head = digest,
                Err(problem) => {
                    report.findings.push(after_record(key, seq + 1, problem));
                    return Ok(());
                }
            }
            seq += 1;
            report.records += 1;
        }
        self.find_gap(project, seq, report).await
    }

    /// Looks for records after the last that could be read: one between was lost.
    async fn find_gap(&self, project: &ProjectName, last: u64, report: &mut VerifyReport) -> Result<(), ReadError> {
        let folder = keys::log(project);
        let seq_of = |key: &str| key.strip_prefix(&format!("{folder}/"))?.strip_suffix(".json")?.parse::<u64>().ok();
        let later = self
            .objects
            .list(&folder)
            .await?
            .iter()
            .filter_map(|(key, _)| seq_of(key))
            .filter(|seq| *seq > last + 1)
            .min();
        if let Some(later) = later {
            let problem = format!("record {} is missing, though record {later} is there", last + 1);
            report.findings.push(after_record(keys::record(project, last + 1), last + 1, problem));
        }
        Ok(())
    }

    async fn verify_objects(
        &self,
        project: &ProjectName,
        depth: Depth,
        plan: Plan,
        report: &mut VerifyReport,
        progress: OnProgress<'_>,
    ) -> Result<(), ReadError> {
        let salt = self.ambient.random();
        let items: Vec<(Item, bool)> = plan
            .items
            .into_iter()
            .map(|item| {
                let whole = reads_whole(depth, &item, salt);
                (item, whole)
            })
            .collect();
        let bytes = items.iter().filter(|(_, whole)| *whole).map(|(item, _)| item.len).sum();
        let (objects, done, read) = (items.len() as u64, AtomicU64::new(0), AtomicU64::new(0));
        let tell = || {
            let (objects_done, bytes_done) = (done.load(Ordering::Relaxed), read.load(Ordering::Relaxed));
            progress(VerifyProgress { objects_done, objects, bytes_done, bytes });
        };
        tell();
        let count = |bytes: u64| {
            read.fetch_add(bytes, Ordering::Relaxed);
            tell();
        };
        let meter = &Meter::new(&*self.ambient, None, &count);
        let marks = self.damaged(project).await?;
        let marks: BTreeMap<_, _> = marks.iter().map(|mark| ((mark.kind, mark.object), mark)).collect();
        let mut results = futures::stream::iter(items)
            .map(|(item, whole)| {
                let mark = marks.get(&(item.kind, item.object)).copied();
                async move {
                    let mut findings = self.verify_object(project, &item, whole, meter).await?;
                    // What is read whole shows by itself whether the mark is right.
                    if let Some(mark) = mark.filter(|_| !whole && findings.is_empty()) {
                        findings.push(marked(project, &item, mark));
                    }
                    Ok::<_, ReadError>((item.len, whole, findings))
                }
            })
            .buffer_unordered(OBJECTS_IN_FLIGHT);
        while let Some((len, whole, findings)) = results.try_next().await? {
            done.fetch_add(1, Ordering::Relaxed);
            tell();
            report.objects += 1;
            if !findings.iter().any(Finding::is_unreadable) {
                let counted = if whole { &mut report.bytes_read } else { &mut report.bytes_by_length };
                *counted += len;
            }
            report.findings.extend(findings);
        }
        Ok(())
    }

    /// Verifies one pack or file: by its length, and if `whole` by every byte.
    async fn verify_object(
        &self,
        project: &ProjectName,
        item: &Item,
        whole: bool,
        meter: &Meter<'_>,
    ) -> Result<Vec<Finding>, ReadError> {
        let key = keys::object(project, item.kind, &item.object);
        let looked = match self.objects.len(&key).await {
            Ok(Some(actual)) if actual == item.len && !whole => return Ok(Vec::new()),
            Ok(Some(actual)) if actual == item.len => self.verify_body(&key, item, meter).await,
            Ok(found) => {
                let actual = found.map(|actual| format!("expected {} bytes, actual {actual}", item.len));
                let problem = actual.unwrap_or_else(|| "the object is missing".to_owned());
                return Ok(vec![Finding { object: key, affects: item.affects(), range: None, problem }]);
            }
            Err(error) => Err(error.into()),
        };
        match looked {
            Err(ReadError::Store(error)) => Ok(vec![self.not_read(item.affects(), error).await?]),
            looked => looked,
        }
    }

    /// Turns an error of the store into a finding, where it is about one object: the others are still looked at. It
    /// stays an error where the store does not answer at all.
    async fn not_read(&self, affects: Vec<String>, error: StoreError) -> Result<Finding, ReadError> {
        if !self.objects.answers().await {
            return Err(error.into());
        }
        let (object, text) = (error.key().to_owned(), with_causes(&error));
        Ok(match error {
            // Taken away or cut while it was looked at.
            StoreError::NotFound { .. } | StoreError::Short { .. } | StoreError::TooLong { .. } => {
                Finding { object, affects, range: None, problem: text }
            }
            StoreError::Denied { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Full { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::Body { .. } => Finding::unreadable(object, affects, &text),
        })
    }
}

/// Whether an object is read whole. A sample is another one each time, so that repeated samples cover everything.
fn reads_whole(depth: Depth, item: &Item, salt: u64) -> bool {
    match depth {
        Depth::Quick => false,
        Depth::Full => true,
        Depth::Sample(share) => {
            let mut bytes = item.object.digest.as_bytes().to_vec();
            bytes.extend(salt.to_le_bytes());
            let drawn = u32::from_le_bytes(*Digest::of(&bytes).as_bytes().first_chunk().expect("32 bytes have 4"));
            f64::from(drawn) < share * (f64::from(u32::MAX) + 1.0)
        }
    }
}

/// Says that an object whose length is right is known to be damaged.
fn marked(project: &ProjectName, item: &Item, mark: &DamageMark) -> Finding {
    let since = Moment::of_ms(mark.since);
    Finding {
        object: keys::object(project, item.kind, &item.object),
        affects: item.affects(),
        range: mark.damages.first().and_then(|damage| damage.range),
        problem: format!("marked as damaged since {since}: {}", mark.problem()),
    }
}

fn after_record(object: String, seq: u64, problem: String) -> Finding {
    Finding {
        object,
        affects: vec![format!("everything committed by log record {seq} and later")],
        range: None,
        problem,
    }
}

impl State {
    /// Returns the live commits that a verification covers.
    fn covered<'s>(&'s self, request: &'s VerifyRequest) -> impl Iterator<Item = &'s crate::log::Live> + 's {
        let names = self.names.iter().filter(|(name, _)| request.name.as_ref().is_none_or(|only| only == *name));
        names
            .flat_map(|(_, named)| named.live.values())
            .filter(|live| request.number.is_none_or(|only| only == live.commit.number))
            .map(AsRef::as_ref)
    }
}
