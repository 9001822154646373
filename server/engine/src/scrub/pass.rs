//! A scrub: every object of a project is verified whole, at a bounded rate, those first that were verified longest ago;
//! what is damaged is marked, and put right where its true bytes are to be had.
//!
//! A pass that was interrupted goes on where it was. Must never stop at the first damage, nor call an object right that
//! was not read back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::lock::Mutex as Turn;
use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::name::ProjectName;
use gigastore_formats::object::{ObjectKind, Stored};
use gigastore_formats::record::{Commit, Index};
use gigastore_formats::wire::{
    Depth, Finding, Repair, ScrubReport, ScrubRequest, VerifyProgress, VerifyReport, VerifyRequest, with_causes,
};

use super::copies::Copies;
use super::pace::Meter;
use super::plan::{Item, Plan};
use super::repair::{Mending, RepairError};
use super::times::Times;
use super::{OBJECTS_IN_FLIGHT, OnProgress};
use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;
use crate::store::{StoreError, keys};

/// Bytes verified between two writes of the times: 1 GiB, twenty seconds of the fastest scrub. A crash loses no more.
const KEEP_EVERY_BYTES: u64 = 1 << 30;

/// Bytes verified for each byte of the times that is written: at 64 the writes are under 2 % of the reads.
const KEEP_SHARE: u64 = 64;

/// How often manifests are repaired and read again: a damaged manifest hides that its list of packs is damaged, too,
/// and that its timeline is.
const MANIFEST_ROUNDS: usize = 3;

/// What stands in a finding before the reason why the damage stays.
const NOT_REPAIRED: &str = "; not repaired: ";

/// What became of an object.
enum Outcome {
    Sound,
    /// Another scrub has verified it since this pass began.
    Before,
    /// Nothing needs it any more.
    Gone,
    Repaired(Repair),
    /// It is damaged still, or could not be read.
    Left(Vec<Finding>),
}

/// What the work on all objects of a project shares.
struct Pass<'a> {
    engine: &'a Engine,
    project: &'a ProjectName,
    state: &'a State,
    /// What is verified: the whole project.
    whole: &'a VerifyRequest,
    dry_run: bool,
    began: u64,
    marked: BTreeSet<(ObjectKind, Stored)>,
    times: Mutex<Times>,
    /// One repair at a time: copies are looked for once, and a damaged store is not read at many places at once.
    copies: Turn<Copies>,
    meter: &'a Meter<'a>,
}

impl Engine {
    /// Verifies every object of a project and puts right what can be put right: from other objects that hold the same
    /// bytes, and from `replica`, a second store. Goes on with a pass that was interrupted.
    ///
    /// What is damaged or can't be read is reported, not returned as an error; errors are for a store that does not
    /// answer at all.
    pub async fn scrub(
        &self,
        request: &ScrubRequest,
        replica: Option<&Engine>,
        progress: OnProgress<'_>,
    ) -> Result<ScrubReport, ReadError> {
        let (project, dry_run) = (&request.project, request.dry_run);
        let (done, read) = (AtomicU64::new(0), AtomicU64::new(0));
        let planned = Mutex::new((0, 0));
        let tell = |bytes: u64| {
            let bytes_done = read.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let (objects, bytes) = *planned.lock().unwrap_or_else(PoisonError::into_inner);
            progress(VerifyProgress { objects_done: done.load(Ordering::Relaxed), objects, bytes_done, bytes });
        };
        let meter = Meter::new(&*self.ambient, request.rate, &tell);
        let mut looked = VerifyReport::default();
        let mut report = ScrubReport::default();
        let Some(state) = self.verified_state(project, &mut looked).await? else {
            (report.records, report.findings) = (looked.records, looked.findings);
            return Ok(report);
        };
        let copies = |items| Copies::new(self.clone(), replica.cloned(), project.clone(), items);
        let whole = VerifyRequest { project: project.clone(), name: None, number: None, depth: Depth::Full };
        let mut plan = self.plan(&whole, &state, &mut looked).await?;
        self.without_dropped(&whole, &state, &mut looked.findings).await?;
        let mut only_wholes = copies(Arc::default());
        let mut mending = Mending { project, state: &state, copies: &mut only_wholes, dry_run, meter: &meter };
        for _ in 0..MANIFEST_ROUNDS {
            let repaired = self.repair_manifests(&mut mending, &mut looked.findings).await?;
            let again = !dry_run && !repaired.is_empty();
            report.repaired.extend(repaired);
            if !again {
                break;
            }
            plan = self.plan_again(&whole, &state, &mut looked).await?;
        }
        let items = Arc::new(plan.items);
        let pass = Pass {
            engine: self,
            project,
            state: &state,
            whole: &whole,
            dry_run,
            began: 0,
            marked: self.list_marks(project).await?,
            times: Mutex::new(self.scrub_times(project).await?),
            copies: Turn::new(copies(Arc::clone(&items))),
            meter: &meter,
        };
        (report.records, report.commits, report.findings) = (looked.records, looked.commits, looked.findings);
        pass.run(&items, &mut report, &done, &planned).await?;
        self.without_dropped(&whole, &state, &mut report.findings).await?;
        report.bytes_read = read.load(Ordering::Relaxed);
        report.findings.sort_by(|a, b| (&a.object, a.range).cmp(&(&b.object, b.range)));
        Ok(report)
    }

    /// Plans anew, now that some manifests are right again.
    async fn plan_again(
        &self,
        request: &VerifyRequest,
        state: &State,
        looked: &mut VerifyReport,
    ) -> Result<Plan, ReadError> {
        let mut now = VerifyReport { records: looked.records, ..VerifyReport::default() };
        let plan = self.plan(request, state, &mut now).await?;
        // What was tried for those that are left is said in their texts.
        for finding in &mut now.findings {
            if let Some(left) = looked.findings.iter().find(|left| left.object == finding.object) {
                *finding = left.clone();
            }
        }
        *looked = now;
        Ok(plan)
    }

    /// Puts damaged manifests, lists of packs and timelines right, and takes their findings away.
    async fn repair_manifests(
        &self,
        mending: &mut Mending<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<Repair>, ReadError> {
        let (project, mut repaired) = (mending.project, Vec::new());
        let live = mending.state.names.values().flat_map(|named| named.live.values());
        for commit in live.map(|live| &live.commit) {
            for index in commit.indexes() {
                let key = keys::object(project, ObjectKind::Manifest, &index.object);
                let tried = |finding: &Finding| finding.is_unreadable() || finding.problem.contains(NOT_REPAIRED);
                let of_it = |finding: &Finding| finding.object == key && !tried(finding);
                if !findings.iter().any(of_it) || !self.is_damaged_manifest(project, commit, index).await {
                    continue;
                }
                let mut notes = String::new();
                let found: Vec<Finding> = findings.iter().filter(|finding| of_it(finding)).cloned().collect();
                if !mending.dry_run
                    && let Err(error) = self.mark(project, ObjectKind::Manifest, index.object, &found).await
                {
                    notes = format!("; it could not be marked: {}", with_causes(&error));
                }
                match self.repaired_manifest(mending, commit, index).await {
                    Ok(repair) => {
                        findings.retain(|finding| !of_it(finding));
                        repaired.push(repair);
                    }
                    Err(why) => {
                        let same = findings.iter_mut().filter(|finding| of_it(finding));
                        same.for_each(|finding| finding.problem += &format!("{NOT_REPAIRED}{why}{notes}"));
                    }
                }
            }
        }
        Ok(repaired)
    }

    /// Tells whether the bytes of a manifest are not what its commit says, or are missing.
    async fn is_damaged_manifest(&self, project: &ProjectName, commit: &Commit, index: &Index) -> bool {
        let read = self.manifest(project, commit, index).await;
        matches!(read, Err(ReadError::Lost { .. } | ReadError::Damaged { .. } | ReadError::Length { .. }))
    }

    async fn repaired_manifest(
        &self,
        mending: &mut Mending<'_>,
        commit: &Commit,
        index: &Index,
    ) -> Result<Repair, String> {
        let tree = index.tree().map_err(|error| error.to_string())?;
        let repaired = self.repair_manifest(mending, tree, index.object).await;
        let repair = repaired.map_err(|error| with_causes(&error))?;
        if !mending.dry_run {
            let read = self.manifest(mending.project, commit, index).await;
            read.map_err(|error| format!("read back after the repair: {}", with_causes(&error)))?;
            let unmarked = self.unmark(mending.project, ObjectKind::Manifest, index.object).await;
            unmarked.map_err(|error| format!("it is right again, but marked: {}", with_causes(&error)))?;
        }
        Ok(repair)
    }
}

impl Pass<'_> {
    /// Works on all objects that this pass has not verified yet.
    async fn run(
        mut self,
        items: &[Item],
        report: &mut ScrubReport,
        done: &AtomicU64,
        planned: &Mutex<(u64, u64)>,
    ) -> Result<(), ReadError> {
        let there: BTreeSet<(ObjectKind, Stored)> = items.iter().map(|item| (item.kind, item.object)).collect();
        self.began = {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.keep(&there);
            // After everything that an earlier pass took down, whatever the clock did meanwhile.
            let next = times.completed.map_or(0, |completed| completed.saturating_add(1));
            *times.began.get_or_insert(self.engine.ambient.wall_ms().max(next))
        };
        self.forget_marks(&there, &report.findings).await?;
        let todo = self.todo(items);
        report.before = (items.len() - todo.len()) as u64;
        *planned.lock().unwrap_or_else(PoisonError::into_inner) =
            (todo.len() as u64, todo.iter().map(|i| items[*i].len).sum());
        self.meter.read(0).await;
        let pass = &self;
        let mut outcomes = futures::stream::iter(todo)
            .map(|i| async move { Ok::<_, ReadError>((i, pass.look_at(&items[i]).await?)) })
            .buffer_unordered(OBJECTS_IN_FLIGHT);
        let (mut since_kept, mut keep_after) = (0, KEEP_EVERY_BYTES);
        while let Some((i, outcome)) = outcomes.try_next().await? {
            done.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Outcome::Before => report.before += 1,
                Outcome::Gone => {}
                Outcome::Sound => report.objects += 1,
                Outcome::Repaired(repair) => {
                    report.objects += 1;
                    report.repaired.push(repair);
                }
                Outcome::Left(findings) => {
                    report.objects += 1;
                    report.findings.extend(findings);
                }
            }
            since_kept += items[i].len;
            if since_kept >= keep_after {
                since_kept = 0;
                keep_after = KEEP_EVERY_BYTES.max(KEEP_SHARE * pass.keep(&there).await);
            }
        }
        drop(outcomes);
        {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.began = None;
            times.completed = Some(self.engine.ambient.wall_ms().max(self.began));
        }
        self.keep(&there).await;
        let damaged = self.engine.list_marks(self.project).await?.len() as u64;
        report.coverage = self.times.lock().unwrap_or_else(PoisonError::into_inner).coverage(damaged);
        Ok(())
    }

    /// Returns the positions of what is to be verified: marked objects, then those that were verified longest ago.
    fn todo(&self, items: &[Item]) -> Vec<usize> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let is_marked = |item: &Item| self.marked.contains(&(item.kind, item.object));
        let mut todo: Vec<(bool, u64, usize)> = items
            .iter()
            .enumerate()
            .map(|(i, item)| (!is_marked(item), times.of(item.kind, &item.object), i))
            .filter(|(unmarked, time, _)| !unmarked || *time < self.began)
            .collect();
        // Objects lie in the order of their names.
        todo.sort_unstable();
        todo.into_iter().map(|(.., i)| i).collect()
    }

    /// Verifies one object, and treats what is found.
    async fn look_at(&self, item: &Item) -> Result<Outcome, ReadError> {
        let (engine, was_marked) = (self.engine, self.marked.contains(&(item.kind, item.object)));
        let time = self.times.lock().unwrap_or_else(PoisonError::into_inner).of(item.kind, &item.object);
        if !was_marked && time >= self.began {
            return Ok(Outcome::Before);
        }
        let mut findings = engine.verify_object(self.project, item, true, self.meter).await?;
        let is_sound = findings.is_empty();
        engine.without_dropped(self.whole, self.state, &mut findings).await?;
        if !is_sound && findings.is_empty() {
            // What was dropped since, a collector may have deleted: it is neither damaged nor brought back.
            return Ok(Outcome::Gone);
        }
        let outcome = if findings.is_empty() {
            if was_marked && !self.dry_run {
                engine.unmark(self.project, item.kind, item.object).await?;
            }
            Outcome::Sound
        } else if findings.iter().all(Finding::is_unreadable) {
            return Ok(Outcome::Left(findings));
        } else {
            self.treat(item, findings).await?
        };
        let now = engine.ambient.wall_ms().max(self.began);
        self.times.lock().unwrap_or_else(PoisonError::into_inner).verified(item.kind, item.object, now);
        Ok(outcome)
    }

    /// Marks a damaged object, puts it right where that can be done, and reads it back.
    async fn treat(&self, item: &Item, findings: Vec<Finding>) -> Result<Outcome, ReadError> {
        let (engine, project) = (self.engine, self.project);
        let mut notes = String::new();
        if !self.dry_run
            && let Err(error) = engine.mark(project, item.kind, item.object, &findings).await
        {
            notes = format!("; it could not be marked: {}", with_causes(&error));
        }
        let repaired = {
            let (mut copies, state, dry_run, meter) = (self.copies.lock().await, self.state, self.dry_run, self.meter);
            let mut mending = Mending { project, state, copies: &mut copies, dry_run, meter };
            engine.repair(&mut mending, item).await
        };
        let (mut left, why) = match repaired {
            Ok(repair) if self.dry_run => return Ok(Outcome::Repaired(repair)),
            Ok(repair) => {
                let again = engine.verify_object(project, item, true, self.meter).await?;
                if again.is_empty() {
                    engine.unmark(project, item.kind, item.object).await?;
                    return Ok(Outcome::Repaired(repair));
                }
                (again, "; true bytes were written, and others were read back".to_owned())
            }
            Err(RepairError::Dropped) => {
                if !self.dry_run {
                    engine.unmark(project, item.kind, item.object).await?;
                }
                return Ok(Outcome::Gone);
            }
            Err(error) => (findings, format!("{NOT_REPAIRED}{}", with_causes(&error))),
        };
        left.iter_mut().for_each(|finding| finding.problem += &format!("{why}{notes}"));
        Ok(Outcome::Left(left))
    }

    /// Takes marks away of objects that are gone, and of manifests that are right.
    async fn forget_marks(
        &self,
        there: &BTreeSet<(ObjectKind, Stored)>,
        findings: &[Finding],
    ) -> Result<(), StoreError> {
        for (kind, object) in self.marked.iter().filter(|mark| !self.dry_run && !there.contains(mark)) {
            let key = keys::object(self.project, *kind, object);
            let right = *kind == ObjectKind::Manifest
                && self.is_live_manifest(object)
                && !findings.iter().any(|finding| finding.object == key);
            if right || self.engine.objects.len(&key).await?.is_none() && !self.is_live_manifest(object) {
                self.engine.unmark(self.project, *kind, *object).await?;
            }
        }
        Ok(())
    }

    fn is_live_manifest(&self, object: &Stored) -> bool {
        let mut live = self.state.names.values().flat_map(|named| named.live.values());
        live.any(|live| live.commit.indexes().any(|index| index.object == *object))
    }

    /// Writes the times down; returns their bytes. A failure is none: the times are a cache, and a later scrub verifies
    /// more than it had to.
    async fn keep(&self, there: &BTreeSet<(ObjectKind, Stored)>) -> u64 {
        if self.dry_run {
            return 0;
        }
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.engine.keep_scrub_times(self.project, times, there).await {
            Ok((times, len)) => {
                *self.times.lock().unwrap_or_else(PoisonError::into_inner) = times;
                len
            }
            Err(_) => 0,
        }
    }
}
