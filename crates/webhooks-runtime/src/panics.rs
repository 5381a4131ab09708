//! Panics: told by their place, never by their text.
//!
//! A panic's text is written by whatever code panicked, with whatever it had in its hands: an
//! `unwrap` prints its error, a slice its bounds, an assertion both sides. What our own code has in
//! its hands are payloads and secrets. So the text goes nowhere: not to the log, not to a dead
//! letter, not into readiness. The place is what is needed to find the fault.

use std::{cell::RefCell, panic::PanicHookInfo, sync::Once};

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What stands for a place that is not known.
const NOWHERE: &str = "an unknown place";

/// Replaces the standard hook, which prints the text. [`crate::run`] calls it; whoever builds a
/// process by hand calls it himself. Calling it again is harmless.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = remember(panic);
        let thread = std::thread::current();
        tracing::error!(
            panic.place = place,
            thread = thread.name().unwrap_or_default(),
            "panicked"
        );
    }));
}

/// For tests, whose own panics must be told with their texts: [`place`] works, and all else is left to
/// the hook that was there.
pub fn remember_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            remember(panic);
            before(panic);
        }));
    });
}

fn remember(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map(ToString::to_string);
    let place = place.unwrap_or_else(|| NOWHERE.to_owned());
    LAST.with_borrow_mut(|last| *last = Some(place.clone()));
    place
}

/// Where this thread has panicked last, for whoever has just caught it.
#[must_use]
pub fn place() -> String {
    let last = LAST.with_borrow(Clone::clone);
    last.unwrap_or_else(|| NOWHERE.to_owned())
}
