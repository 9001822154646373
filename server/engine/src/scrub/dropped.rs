//! What a verification did not find because it was dropped, and collected, while the verification ran.
//!
//! Must never excuse a finding that something still live needs.

use std::collections::BTreeSet;

use gigastore_formats::wire::{Finding, VerifyReport, VerifyRequest};

use crate::engine::Engine;
use crate::log::State;
use crate::read::ReadError;

/// What stands before the target in findings that are not about one row.
const BEFORE_TARGET: [&str; 2] = ["all of ", "the timeline of "];

impl Engine {
    /// Takes the findings out that are about nothing but commits dropped since `before`: a verification of a large
    /// store takes longer than collectors wait.
    pub(super) async fn without_dropped(
        &self,
        request: &VerifyRequest,
        before: &State,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        if report.findings.is_empty() {
            return Ok(());
        }
        let now = self.state(&request.project).await?;
        let is_gone = |live: &&crate::log::Live| {
            now.live(&live.commit.name, live.commit.number).is_none_or(|there| there.seq != live.seq)
        };
        let target = |live: &crate::log::Live| format!("{}@{}", live.commit.name, live.commit.number);
        let dropped: BTreeSet<String> = before.covered(request).filter(is_gone).map(target).collect();
        report.findings.retain(|finding| !is_about(finding, &dropped));
        Ok(())
    }
}

/// Whether a finding affects these targets and no others.
fn is_about(finding: &Finding, targets: &BTreeSet<String>) -> bool {
    let named = finding.affects.iter().filter(|text| !text.starts_with("and "));
    let mut named = named.map(|text| {
        let text = BEFORE_TARGET.iter().find_map(|before| text.strip_prefix(before)).unwrap_or(text);
        text.split(' ').next().unwrap_or_default()
    });
    let first = named.next();
    first.is_some_and(|first| targets.contains(first)) && named.all(|target| targets.contains(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_affects_nothing_live_is_excused() {
        let targets: BTreeSet<String> = ["run@1", "data@2"].map(str::to_owned).into();
        let about = |affects: &[&str]| {
            let affects = affects.iter().map(|text| (*text).to_owned()).collect();
            is_about(&Finding { object: String::new(), affects, range: None, problem: String::new() }, &targets)
        };
        assert!(about(&["run@1 w[0:4]", "run@1 a b", "and 3 more slices"]) && about(&["all of data@2"]));
        assert!(about(&["the timeline of run@1"]) && about(&["run@1"]));
        assert!(!about(&["run@1 w[0:4]", "run@10 w[0:4]"]) && !about(&["all of run@3"]) && !about(&[]));
        assert!(!about(&["everything committed by log record 1 and later"]) && !about(&["and 3 more slices"]));
    }
}
