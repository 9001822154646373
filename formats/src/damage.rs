//! The mark of a damaged object: `damaged/<kind>/<name>.json`, a [sealed](crate::sealed) document.
//!
//! A marked object still serves what is sound in it, as every reader checks what it reads; nothing new refers to it.
//! Must never be needed to tell true bytes from others: a mark is a hint, and may be missing or late.

use serde::{Deserialize, Serialize};

use crate::object::{ObjectKind, Stored};
use crate::wire::Finding;

/// Bytes of a mark: 1 MiB, which 64 damages fit with the longest names of tensors in their texts.
pub const MAX_MARK_BYTES: u64 = 1 << 20;

/// Damages that a mark lists; more of the same object tell a person nothing new.
pub const MAX_MARKED_DAMAGES: usize = 64;

/// An object that is known to be damaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamageMark {
    /// What kind of object.
    pub kind: ObjectKind,
    /// The object.
    pub object: Stored,
    /// When it was found, in milliseconds since 1970.
    pub since: u64,
    /// What was found, at most [`MAX_MARKED_DAMAGES`].
    pub damages: Vec<Damage>,
}

/// One damage of an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damage {
    /// The damaged bytes, where they are known: first, and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// What was found, with expected and actual.
    pub problem: String,
}

impl DamageMark {
    /// Marks an object in which `findings` were found at `since`.
    pub fn new(kind: ObjectKind, object: Stored, since: u64, findings: &[Finding]) -> Self {
        let damage = |finding: &Finding| Damage { range: finding.range, problem: finding.problem.clone() };
        let damages = findings.iter().take(MAX_MARKED_DAMAGES).map(damage).collect();
        Self { kind, object, since, damages }
    }

    /// Returns the first damage as a text for people.
    pub fn problem(&self) -> &str {
        self.damages.first().map_or("damaged", |damage| &damage.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::sealed::{seal, unseal};

    fn mark() -> DamageMark {
        let finding = |range, problem: &str| Finding {
            object: "packs/x".to_owned(),
            affects: vec!["run@1 w[0:4]".to_owned()],
            range,
            problem: problem.to_owned(),
        };
        let findings = [finding(Some((4096, 8192)), "group 0 differs"), finding(None, "too short")];
        DamageMark::new(
            ObjectKind::Pack,
            Stored { digest: Digest::of(b"pack"), epoch: 3 },
            1_700_000_000_000,
            &findings,
        )
    }

    #[test]
    fn version_1_is_frozen() {
        let frozen = include_bytes!("../fixtures/damaged-1.json");
        assert_eq!(seal(&mark()).0, frozen, "{}", String::from_utf8(seal(&mark()).0).unwrap());
        assert_eq!(unseal::<DamageMark>(frozen, MAX_MARK_BYTES).unwrap().0, mark());
    }

    #[test]
    fn marks_are_bounded() {
        let finding = Finding { object: String::new(), affects: vec![], range: None, problem: "x".repeat(4096) };
        let many = vec![finding; 10 * MAX_MARKED_DAMAGES];
        let mark = DamageMark::new(ObjectKind::Blob, mark().object, 0, &many);
        assert_eq!(mark.damages.len(), MAX_MARKED_DAMAGES);
        assert!((seal(&mark).0.len() as u64) < MAX_MARK_BYTES);
    }
}
