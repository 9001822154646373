//! Rules about one file: its sizes, its opening, its lines, the names and words in it.
//!
//! Must never judge by other files: those rules are in `crates` and `reach`.

use crate::code::Code;
use crate::tree::File;
use crate::{EMPTY_NAMES, FILE_LINES, FUNCTION_LINES, LINE_CHARS, OBJECT_STORE_FOLDERS, UNSAFE_FILES};

/// Returns what is wrong in a file, each with its place and what to do.
pub(crate) fn violations(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    lines(file, &mut found);
    names(file, &mut found);
    if file.kind() == "rs" {
        let code = Code::of(&file.text);
        sizes(file, &code, &mut found);
        words(file, &code, &mut found);
        safety(file, &code, &mut found);
    }
    found
}

fn lines(file: &File, found: &mut Vec<String>) {
    let rust = file.kind() == "rs";
    for (at, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, at + 1);
        if line.contains('\t') {
            found.push(format!("{place}: a tab; use spaces"));
        }
        if line.ends_with(char::is_whitespace) {
            found.push(format!("{place}: whitespace at the end of the line; remove it"));
        }
        let chars = line.chars().count();
        if rust && chars > LINE_CHARS {
            found.push(format!("{place}: {chars} characters, more than {LINE_CHARS}; break the line"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(format!("{}: no newline at the end; add one", file.path));
    }
    if rust && !file.text.starts_with("//!") {
        found.push(format!("{}: open with `//!`: what it does, and what it must never do", file.path));
    }
}

fn names(file: &File, found: &mut Vec<String>) {
    let stems = file.path.split('/').map(|name| name.split('.').next().unwrap_or(name));
    for stem in stems.filter(|stem| EMPTY_NAMES.contains(stem)) {
        found.push(format!("{}: \"{stem}\" says nothing; name it after what is inside", file.path));
    }
}

fn sizes(file: &File, code: &Code, found: &mut Vec<String>) {
    let lines = file.text.lines().count();
    if !file.is_test() && lines > FILE_LINES {
        found.push(format!("{}: {lines} lines, more than {FILE_LINES}; split it by what its parts do", file.path));
    }
    for function in code.functions().iter().filter(|function| function.lines > FUNCTION_LINES) {
        let (name, line, lines) = (&function.name, function.line, function.lines);
        found.push(format!("{}:{line}: fn {name} has {lines} lines, more than {FUNCTION_LINES}; split it", file.path));
    }
}

fn words(file: &File, code: &Code, found: &mut Vec<String>) {
    let mut previous = "";
    for (at, word) in code.identifiers() {
        let place = || format!("{}:{}", file.path, code.line(at));
        let after = &code.text[at + word.len()..];
        if word == "object_store"
            && (after.starts_with("::") || previous == "use")
            && !may_name_object_store(&file.path)
        {
            found.push(format!("{}: object_store is named only in {OBJECT_STORE_FOLDERS:?}", place()));
        }
        if previous == "mod" && EMPTY_NAMES.contains(&word) {
            found.push(format!("{}: mod {word} says nothing; name it after what is inside", place()));
        }
        let attribute = code.text[..at].trim_end().ends_with("#[");
        if word == "ignore" && attribute {
            found.push(format!("{}: an ignored test is a forgotten one; mend or remove it", place()));
        }
        previous = word;
    }
}

fn may_name_object_store(path: &str) -> bool {
    OBJECT_STORE_FOLDERS.iter().any(|folder| path.starts_with(folder))
}

fn safety(file: &File, code: &Code, found: &mut Vec<String>) {
    let lines: Vec<&str> = file.text.lines().collect();
    for (at, _) in code.identifiers().filter(|(_, word)| *word == "unsafe") {
        let line = code.line(at);
        if !UNSAFE_FILES.contains(&file.path.as_str()) {
            found.push(format!(
                "{}:{line}: unsafe in a file that UNSAFE_FILES in tests/tidy.rs does not list",
                file.path
            ));
        }
        // The reason stands in the comment right above the statement, which may have begun a line or two earlier.
        let reason =
            lines[..line].iter().rev().take(8).any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
        if !reason {
            found.push(format!("{}:{line}: unsafe without a comment `SAFETY:` that says why it is sound", file.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        violations(&File { path: path.to_owned(), text: text.to_owned() })
    }

    fn one(path: &str, text: &str, part: &str) {
        let found = found(path, text);
        assert!(found.len() == 1 && found[0].contains(part), "expected one {part:?}, got {found:?}");
    }

    #[test]
    fn each_rule_is_seen() {
        one("a/b.rs", "fn f() {}\n", "open with");
        one("a/b.rs", "//! x\nfn f() {\treturn; }\n", "a tab");
        one("a/b.md", "x \n", "whitespace at the end");
        one("a/b.md", "x", "no newline");
        one("a/b.rs", &format!("//! {}\n", "é".repeat(117)), "121 characters");
        one("a/utils.rs", "//! x\n", "says nothing");
        one("a/misc/b.rs", "//! x\n", "says nothing");
        one("a/b.rs", "//! x\nmod helpers {}\n", "mod helpers");
        one("a/b.rs", &"//! x\n".repeat(401), "401 lines");
        one("a/b_test.rs", &format!("//! x\nfn f() {{\n{}}}\n", "a;\n".repeat(500)), "fn f has 502 lines");
        one("a/b.rs", "//! x\nuse object_store::path::Path;\n", "object_store");
        one("a/b.rs", "//! x\nuse object_store as store;\n", "object_store");
        one("a/b.rs", "//! x\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n", "ignored");
        let listed = found("a/b.rs", "//! x\nfn f() { unsafe { g() } }\n");
        assert_eq!(listed.len(), 2, "{listed:?}");
        one("a/b.rs", "//! x\nfn f() {\n    // SAFETY: g has no conditions.\n    unsafe { g() }\n}\n", "UNSAFE_FILES");
    }

    #[test]
    fn what_is_allowed_is_not_seen() {
        let text = "//! Not `object_store::path`, not unsafe.\nfn f() { let s = \"#[ignore] unsafe {\"; }\n";
        assert_eq!(found("formats/src/a.rs", text), Vec::<String>::new());
        assert_eq!(found("tests/it/a.rs", "//! x\nuse object_store::path::Path;\n"), Vec::<String>::new());
        assert_eq!(found("server/engine/src/store/a.rs", "//! x\nuse object_store::Path;\n"), Vec::<String>::new());
        assert_eq!(found("a/b_test.rs", &"//! x\n".repeat(401)), Vec::<String>::new());
    }
}
