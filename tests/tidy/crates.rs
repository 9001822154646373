//! Directions between crates, read from their Cargo.toml files.
//!
//! Must never let a new crate in without a word on what it may depend on. Dependencies of tests alone are free.

use crate::tree::File;

/// Returns the edges that the table does not allow, and crates that it does not know.
pub(crate) fn violations(files: &[File], directions: &[(&str, &[&str], &[&str])]) -> Vec<String> {
    let manifests: Vec<(&File, Manifest)> = files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .map(|file| (file, Manifest::parse(&file.text)))
        .collect();
    let ours: Vec<&str> = manifests.iter().map(|(_, manifest)| manifest.name.as_str()).collect();
    let mut found = Vec::new();
    for (file, manifest) in &manifests {
        let name = &manifest.name;
        let Some((_, allowed, refused)) = directions.iter().find(|(known, ..)| known == name) else {
            found.push(format!("{}: crate {name} is new; say in DIRECTIONS what it may depend on", file.path));
            continue;
        };
        for dependency in manifest.dependencies.iter().map(String::as_str) {
            let wrong_way = ours.contains(&dependency) && !allowed.contains(&dependency);
            if wrong_way || refused.contains(&dependency) {
                found.push(format!("{}: {name} must not depend on {dependency}", file.path));
            }
        }
    }
    found
}

/// What a Cargo.toml says, as far as it is needed here.
#[derive(Default)]
struct Manifest {
    name: String,
    dependencies: Vec<String>,
}

impl Manifest {
    /// Reads sections and keys line by line: enough for manifests written as in this workspace.
    fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut section = "";
        for line in text.lines().map(|line| line.split(" #").next().unwrap_or(line).trim()) {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_matches(['[', ']']);
                if let Some(name) = section.strip_prefix("dependencies.") {
                    manifest.dependencies.push(name.to_owned());
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let key = key.trim().split('.').next().unwrap_or_default().trim_matches('"');
            let depends = matches!(section, "dependencies" | "build-dependencies")
                || (section.starts_with("target.") && section.ends_with("dependencies") && !section.contains(".dev-"));
            if section == "package" && key == "name" {
                manifest.name = value.trim().trim_matches('"').to_owned();
            } else if depends && !key.starts_with('#') {
                manifest.dependencies.push(real_name(value).unwrap_or(key).to_owned());
            }
        }
        manifest
    }
}

/// Returns the name in `{ package = "name" }`.
fn real_name(value: &str) -> Option<&str> {
    let (_, after) = value.split_once("package")?;
    after.trim_start().strip_prefix('=')?.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_edge_a_refused_crate_and_a_new_crate_are_seen() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file(
                "low/Cargo.toml",
                "[package]\nname = \"low\" # x\n[dependencies]\nhigh.workspace = true\nrand = \"1\"\n",
            ),
            file("high/Cargo.toml", "[package]\nname = \"high\"\n[dependencies]\nlow = { path = \"../low\" }\n"),
            file("new/Cargo.toml", "[package]\nname = \"new\"\n"),
            file("also/Cargo.toml", "[package]\nname = \"also\"\n[dependencies.low]\npath = \"../low\"\n"),
            file(
                "trick/Cargo.toml",
                "[package]\nname = \"trick\"\n[target.'cfg(unix)'.dependencies]\nx = { package = \"low\" }\n\
                 [dev-dependencies]\nhigh = \"1\"\n",
            ),
        ];
        let directions: &[(&str, &[&str], &[&str])] =
            &[("low", &[], &["rand"]), ("high", &["low"], &[]), ("also", &[], &[]), ("trick", &[], &[])];
        let expected = [
            "low/Cargo.toml: low must not depend on high",
            "low/Cargo.toml: low must not depend on rand",
            "new/Cargo.toml: crate new is new; say in DIRECTIONS what it may depend on",
            "also/Cargo.toml: also must not depend on low",
            "trick/Cargo.toml: trick must not depend on low",
        ];
        assert_eq!(violations(&files, directions), expected);
    }
}
