//! Ctrl-C, SIGTERM, SIGHUP and a closed pipe: noticed, so that what was started is taken away before this program ends.
//!
//! Owns: the mark that a signal leaves, and what is printed when the reader of our output is gone. What can hurt: work
//! that never asks; a second signal then ends the program at once. Refuses: doing anything in the handler itself.
#![expect(unsafe_code, reason = "a signal handler can only be installed so; it sets a mark and does nothing else")]

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: i32) {
    if ASKED.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` may be called in a signal handler, and takes no memory of ours.
        unsafe { libc::_exit(130) }
    }
}

/// From here on signals that ask to end only leave a mark. Programs that are started are not concerned: `exec` gives
/// them the default back.
pub(crate) fn notice_signals() {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler touches an atomic and calls `_exit`, both of which may be done in a handler.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// An error once a signal has asked to end.
///
/// # Errors
/// See above.
pub(crate) fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Output that nobody reads any more ends the program by unwinding, which takes away what was started. It says so in a
/// line instead of a panic's words, and not at all when standard error is what was closed.
pub(crate) fn speak_plainly_of_closed_pipes() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        use std::io::Write;
        let text = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to std") {
            let _ = writeln!(std::io::stderr(), "error: {text}; stopped");
        } else {
            usual(panic);
        }
    }));
}
