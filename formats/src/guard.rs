//! Calls of libraries that assert what their input should be like: a panic of theirs is an error.
//!
//! Must never be put around code that shares something with the rest of the process: it may be left half-changed.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most characters of a panic's message that are kept: a line or two; some libraries print the whole value.
const MESSAGE_CHARS: usize = 200;

/// Makes a call, and returns the message of its panic. What the call worked on must not be used after.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        text.chars().take(MESSAGE_CHARS).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_messages() {
        assert_eq!(guarded(|| 7), Ok(7));
        assert_eq!(guarded(|| -> u8 { panic!("{}", "x".repeat(MESSAGE_CHARS + 1)) }), Err("x".repeat(MESSAGE_CHARS)));
    }
}
