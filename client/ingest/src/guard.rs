//! Calls of libraries that assert what their input should be like: a panic of theirs is an error, and not told.
//!
//! Must never keep quiet about a panic outside of such a call.

use std::cell::Cell;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What is told of each panic of the process.
type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;

/// Makes a call, and returns the message of its panic, of which nothing is printed. What the call worked on must not be
/// used after.
///
/// The first call sets a hook for the process's panics: it passes on all but those of guarded calls.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        set_hook(but_guarded(take_hook()));
    });
    let around = GUARDED.replace(true);
    let done = gigastore_formats::guard::guarded(call);
    GUARDED.set(around);
    done
}

/// Returns a hook that passes panics on to `before`, except those of guarded calls.
fn but_guarded(before: Hook) -> Hook {
    Box::new(move |panic| {
        // A thread whose locals are gone is not within a call.
        if !GUARDED.try_with(Cell::get).unwrap_or(false) {
            before(panic);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn panics_are_messages_and_others_go_on() {
        assert_eq!(guarded(|| 7), Ok(7));
        let inner = guarded(|| (guarded(|| -> u8 { panic!("inner") }), GUARDED.get()));
        assert_eq!(inner, Ok((Err("inner".to_owned()), true)));
        assert!(!GUARDED.get());
    }

    #[test]
    fn only_panics_outside_of_guarded_calls_are_told() {
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        assert_eq!(guarded(|| 0), Ok(0), "its hook is there, and is put back below");
        let before = take_hook();
        set_hook(but_guarded(Box::new(|_| {
            TOLD.fetch_add(1, Ordering::Relaxed);
        })));
        let (quiet, loud) = (guarded(|| panic!("quiet")), catch_unwind(|| panic!("loud")));
        set_hook(before);
        assert!(quiet.is_err() && loud.is_err());
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    }
}
