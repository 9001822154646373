//! Rust source with its comments and literals blanked, and the functions in it.
//!
//! Must never be fooled by a brace in a string, a comment or a character; need not understand more of Rust than that.

/// Source of the same length as the original, byte for byte, in which comments and literals are spaces.
pub(crate) struct Code {
    pub(crate) text: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from `fn` to the closing brace.
    pub(crate) lines: usize,
}

impl Code {
    /// Blanks comments and literals.
    pub(crate) fn of(source: &str) -> Self {
        let bytes = source.as_bytes();
        let mut blank: Vec<u8> = bytes.iter().map(|b| if b.is_ascii() { *b } else { b'x' }).collect();
        let mut at = 0;
        while at < bytes.len() {
            let end = match token_end(bytes, at) {
                Some(end) => end.min(bytes.len()),
                None => {
                    at += 1;
                    continue;
                }
            };
            blank[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
            at = end;
        }
        Self { text: String::from_utf8(blank).unwrap_or_default() }
    }

    /// Returns identifiers and their positions, in order.
    pub(crate) fn identifiers(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = &self.text[at..];
            let start = at + rest.find(|c: char| c.is_ascii_alphabetic() || c == '_')?;
            let rest = &self.text[start..];
            let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            at = start + len;
            Some((start, &self.text[start..at]))
        })
    }

    /// Returns the line, from 1, of a position.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    /// Returns the functions that have a body; those inside others too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        let mut identifiers = self.identifiers().peekable();
        while let Some((at, word)) = identifiers.next() {
            let Some((name_at, name)) = identifiers.peek().copied().filter(|_| word == "fn") else { continue };
            // `fn(u8)` is a type and `fn $name` is in a macro: only a name may follow, after nothing but spaces.
            if !self.text[at + 2..name_at].chars().all(char::is_whitespace) {
                continue;
            }
            if let Some(end) = self.body_end(name_at) {
                let line = self.line(at);
                functions.push(Function { name: name.to_owned(), line, lines: self.line(end) - line + 1 });
            }
        }
        functions
    }

    /// Returns the position of the closing brace of the function whose signature goes on at `from`.
    fn body_end(&self, from: usize) -> Option<usize> {
        let (mut nested, mut braces) = (0usize, 0usize);
        for (at, byte) in self.text.bytes().enumerate().skip(from) {
            match byte {
                b'(' | b'[' if braces == 0 => nested += 1,
                b')' | b']' if braces == 0 => nested = nested.saturating_sub(1),
                b';' if braces == 0 && nested == 0 => return None,
                b'{' if nested == 0 => braces += 1,
                b'}' if nested == 0 && braces <= 1 => return (braces == 1).then_some(at),
                b'}' if nested == 0 => braces -= 1,
                _ => {}
            }
        }
        None
    }
}

/// Returns where the comment or literal that starts at `at` ends; `None` if none starts there.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment(rest));
    }
    match rest[0] {
        b'"' => Some(at + quoted(rest, 0, b'"')),
        b'\'' => character(rest).map(|len| at + len),
        b'b' | b'c' | b'r' if !after_word => prefixed(rest).map(|len| at + len),
        _ => None,
    }
}

/// Returns the length of a block comment, nested ones included.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Returns the position after the quote that closes the one at `open`.
fn quoted(rest: &[u8], open: usize, quote: u8) -> usize {
    let mut at = open + 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Returns the length of a character literal; `None` for a lifetime or a label.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, 0, b'\''));
    }
    let one = std::str::from_utf8(&rest[1..rest.len().min(5)]);
    let valid = match &one {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&rest[1..1 + error.valid_up_to()]).unwrap_or_default(),
    };
    let len = valid.chars().next()?.len_utf8();
    (rest.get(1 + len) == Some(&b'\'')).then_some(len + 2)
}

/// Returns the length of a literal with a prefix: `b"…"`, `c"…"`, `b'…'`, `r"…"`, `br#"…"#` and their kin.
fn prefixed(rest: &[u8]) -> Option<usize> {
    let letters = rest.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let raw = matches!(&rest[..letters], b"r" | b"br" | b"cr");
    if !raw {
        return match rest.get(letters) {
            Some(b'"') if letters == 1 => Some(quoted(rest, 1, b'"')),
            Some(b'\'') if letters == 1 && rest[0] == b'b' => Some(quoted(rest, 1, b'\'')),
            _ => None,
        };
    }
    let hashes = rest[letters..].iter().take_while(|b| **b == b'#').count();
    let open = letters + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &rest[open + 1..];
    let found = body.windows(close.len()).position(|window| window == close);
    Some(open + 1 + found.map_or(body.len(), |at| at + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(source: &str) -> Vec<(String, usize)> {
        Code::of(source).functions().into_iter().map(|function| (function.name, function.lines)).collect()
    }

    #[test]
    fn literals_and_comments_are_blanked_and_nothing_else() {
        for (source, left) in [
            ("a // } b\nc", "a c"),
            ("a /* { /* } */ \n */ b", "a b"),
            (r#"x("}\"{", y)"#, "x( , y)"),
            (r##"x(r#"}"{"#, r"\")"##, "x( , )"),
            ("x(b'{', '}', '\\'', 'é', b\"{\", c\"}\")", "x( , , , , , )"),
            ("fn f<'a>(x: &'a str) -> r#type { 'l: loop {} }", "fn f<'a>(x: &'a str) -> r#type { 'l: loop {} }"),
            ("for bar in rc { brr\"{\" }", "for bar in rc { brr }"),
            ("'static '{'", "'static"),
            ("\"never closed {", ""),
        ] {
            let code = Code::of(source);
            assert_eq!(code.text.split_whitespace().collect::<Vec<_>>().join(" "), left, "{source}");
            assert_eq!(code.text.len(), source.len());
        }
    }

    #[test]
    fn functions_are_measured_with_those_inside_them() {
        let source = "\
fn one() { let s = \"}\"; }
trait T {
    fn without(&self) -> [u8; 4];
    fn with(&self, f: fn(u8) -> u8) -> [u8; 4] {
        // }
        fn inner() {
            let c = '}';
        }
        [0; 4]
    }
}
macro_rules! m { ($name:ident) => { fn $name() {} }; }
proptest! {
    fn law(
        a in 0u8..3,
    ) {
        assert!(a < 3);
    }
}
const F: fn(u8) = |_| {};
";
        let expected = [("one", 1), ("with", 7), ("inner", 3), ("law", 5)];
        assert_eq!(lengths(source), expected.map(|(name, lines)| (name.to_owned(), lines)));
        assert_eq!(Code::of(source).functions()[2].line, 6);
    }

    #[test]
    fn unfinished_source_ends_quietly() {
        assert_eq!(lengths("fn f("), []);
        assert_eq!(lengths("fn f() {"), []);
        assert_eq!(lengths("fn"), []);
        assert_eq!(lengths("}"), []);
    }
}
