//! Bugs that can be put in on purpose, to prove that the simulator finds them.
//!
//! Owns: the names, and whether one of them is in. Only a build with the feature `planted` can have any; the product is
//! never built with it (its binary refuses to compile), and [`planted`] is then `false` at no cost. What can hurt: a
//! planted bug that nobody looks for any more; `cargo xtask sim --planted all` runs through the whole list and fails
//! when one of them is not found. Refuses: everything else.

/// Every planted bug: its name, and what is wrong with it in.
pub const PLANTED: [(&str, &str); 0] = [];

#[cfg(feature = "planted")]
std::thread_local! {
    static CURRENT: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Puts a bug in, for what this thread does from now on; `""` takes it out again.
#[cfg(feature = "planted")]
pub fn plant(bug: &'static str) {
    CURRENT.with(|current| current.set(bug));
}

/// Whether this bug is in.
#[inline(always)]
#[must_use]
pub fn planted(bug: &str) -> bool {
    #[cfg(feature = "planted")]
    return CURRENT.with(|current| current.get() == bug);
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}
