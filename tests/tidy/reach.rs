//! Forgotten files: Rust sources that no target of any crate compiles, so that their tests never run.
//!
//! Must never count a file as reached because it exists: only targets and the `mod` lines that lead on from them count.

use std::collections::{BTreeMap, BTreeSet};

use crate::code::Code;
use crate::tree::File;

/// Places where cargo looks for targets by itself.
const FOUND_BY_CARGO: &[&str] = &["src/lib.rs", "src/main.rs", "build.rs"];

/// Returns the sources that nothing compiles.
pub(crate) fn violations(files: &[File]) -> Vec<String> {
    let sources: BTreeMap<&str, &str> =
        files.iter().filter(|file| file.kind() == "rs").map(|file| (file.path.as_str(), file.text.as_str())).collect();
    let mut open = targets(files);
    let mut reached = BTreeSet::new();
    while let Some((path, is_root)) = open.pop() {
        let Some(text) = sources.get(path.as_str()) else { continue };
        if reached.insert(path.clone()) {
            open.extend(modules(&path, is_root, text).into_iter().map(|path| (path, false)));
        }
    }
    let forgotten = sources.keys().filter(|path| !reached.contains(**path));
    forgotten
        .map(|path| {
            format!("{path}: no target and no `mod` leads here; its code and tests never run; add one or remove it")
        })
        .collect()
}

/// Returns the root files of all targets, each with `true`.
fn targets(files: &[File]) -> Vec<(String, bool)> {
    let mut roots = Vec::new();
    for manifest in files {
        let Some(folder) = manifest.path.strip_suffix("Cargo.toml") else { continue };
        roots.extend(FOUND_BY_CARGO.iter().map(|path| format!("{folder}{path}")));
        let mut section = "";
        for line in manifest.text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']);
            }
            let target = matches!(section, "lib" | "bin" | "test" | "bench" | "example");
            let path = line.strip_prefix("path").map(|rest| rest.trim_start_matches([' ', '=']).trim_matches('"'));
            if let (true, Some(path)) = (target, path) {
                roots.push(normal(&format!("{folder}{path}")));
            }
        }
        // Integration tests, benches, examples and more binaries, unless the manifest turns the search off.
        for (key, below) in [
            ("autotests", "tests/"),
            ("autobenches", "benches/"),
            ("autoexamples", "examples/"),
            ("autobins", "src/bin/"),
        ] {
            let off = manifest.text.lines().any(|line| line.replace(' ', "") == format!("{key}=false"));
            let below = format!("{folder}{below}");
            let direct = |file: &&File| file.path.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
            if !off && manifest.text.contains("[package]") {
                roots.extend(files.iter().filter(direct).map(|file| file.path.clone()));
            }
        }
    }
    roots.into_iter().map(|path| (path, true)).collect()
}

/// Returns every path that the `mod name;` lines of a file may mean.
fn modules(path: &str, is_root: bool, text: &str) -> Vec<String> {
    let code = Code::of(text);
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    let stem = name.trim_end_matches(".rs");
    let own = if is_root || stem == "mod" { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    let mut previous = "";
    for (at, word) in code.identifiers() {
        let declared = previous == "mod" && code.text[at + word.len()..].trim_start().starts_with(';');
        previous = word;
        if !declared {
            continue;
        }
        match path_attribute(text, &code, at) {
            Some(given) => found.push(normal(&format!("{folder}/{given}"))),
            None => found.extend([normal(&format!("{own}/{word}.rs")), normal(&format!("{own}/{word}/mod.rs"))]),
        }
    }
    found
}

/// Returns `x` of `#[path = "x"]`, if that stands before the declaration at `at`.
fn path_attribute<'a>(text: &'a str, code: &Code, at: usize) -> Option<&'a str> {
    let statement = code.text[..at].rfind([';', '}']).map_or(0, |end| end + 1);
    let attribute = statement + code.text[statement..at].find("#[path")?;
    text[attribute..at].split('"').nth(1)
}

/// Removes `.` and resolves `..` in a path.
fn normal(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            _ => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_target_leads_to_is_reached() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("a/Cargo.toml", "[package]\nautotests = false\n[[test]]\nname = \"t\"\npath = \"it/../it/t.rs\"\n"),
            file("a/src/lib.rs", "pub mod b;\n#[cfg(test)]\nmod c;\n// mod d;\nmod inline { fn f() {} }\n"),
            file("a/src/b.rs", "mod e;\n"),
            file("a/src/b/e.rs", ""),
            file("a/src/c/mod.rs", "#[cfg(test)]\n#[path = \"../f_test.rs\"]\nmod f;\n"),
            file("a/src/f_test.rs", ""),
            file("a/src/d.rs", "#[test] fn never_run() {}\n"),
            file("a/it/t.rs", "mod u;\n"),
            file("a/it/u.rs", ""),
            file("a/it/v.rs", ""),
            file("a/tests/w.rs", ""),
            file("a/benches/x.rs", ""),
        ];
        let forgotten: Vec<String> =
            violations(&files).iter().map(|v| v.split(':').next().unwrap().to_owned()).collect();
        assert_eq!(forgotten, ["a/it/v.rs", "a/src/d.rs", "a/tests/w.rs"]);
    }
}
