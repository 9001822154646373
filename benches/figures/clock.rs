//! Time: seconds of work beside its limit, medians, and what processors were busy for.
//!
//! Must never mix runs: a ratio is of one run, and the median is taken of the ratios.

use std::fs;
use std::time::Instant;

use crate::{Plan, Res};

/// The kernel counts processor time in hundredths of a second where programs see it.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of a limit and of ours, run by run.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    limits: Vec<f64>,
    ours: Vec<f64>,
}

impl Pairs {
    /// Takes the seconds of one run.
    pub(crate) fn push(&mut self, limit: f64, ours: f64) {
        self.limits.push(limit);
        self.ours.push(ours);
    }

    /// Reports the speed with which `bytes` were moved.
    pub(crate) fn report(&self, plan: &Plan, name: &str, bytes: u64, note: &str) -> Res<()> {
        self.report_speed(plan, name, bytes as f64 / 1e9, note)
    }

    /// Reports the speed with which so much of the row's unit was moved.
    pub(crate) fn report_speed(&self, plan: &Plan, name: &str, amount: f64, note: &str) -> Res<()> {
        if self.ours.is_empty() {
            return Ok(());
        }
        let speed = |seconds: &[f64]| amount / median(seconds);
        let (value, limit) = (speed(&self.ours), speed(&self.limits));
        plan.report(name, note, |row, note| row.beside(value, limit, self.ratio(), note))
    }

    /// Reports the milliseconds that work took.
    pub(crate) fn report_milliseconds(&self, plan: &Plan, name: &str, note: &str) -> Res<()> {
        let ratios: Vec<f64> = self.limits.iter().zip(&self.ours).map(|(limit, ours)| ours / limit).collect();
        let (value, limit, ratio) = (median(&self.ours) * 1e3, median(&self.limits) * 1e3, median(&ratios));
        plan.report(name, note, |row, note| row.beside(value, limit, ratio, note))
    }

    /// Returns the median of how many times faster ours was than its limit.
    pub(crate) fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.limits.iter().zip(&self.ours).map(|(limit, ours)| limit / ours).collect();
        median(&ratios)
    }
}

/// Returns the seconds that work takes.
pub(crate) fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<f64, E> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// Returns the median; the lower one of two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// Returns how many seconds the processors have worked for a process: user and system, all its threads.
pub(crate) fn processor_seconds(process: u32) -> Res<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may have spaces; behind it are the state and then numbers.
    let (_, after) = text.rsplit_once(')').ok_or("/proc/…/stat has a name in parentheses")?;
    let ticks = after.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}
