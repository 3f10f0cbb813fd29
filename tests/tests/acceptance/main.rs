//! The whole system as its users see it: two nodes with real processes, driven by IMAP and LMTP alone, compared by an
//! independent client that reads both nodes.
//!
//! Owns: the promises of `docs/mesh.md` and of the acknowledgement levels, shown from outside. What can hurt: a host
//! without root, Dovecot or network namespaces; each test is then skipped by name. Refuses: the agents' own word that
//! two accounts are equal; it only tells when to look.
//!
//! Every test prints its seed. Variables of the environment:
//! - `UNDERSTUDY_TEST_SEED=N`: the same choices again (what the processes make of them in time is theirs);
//! - `UNDERSTUDY_TEST_LONG=1` (`cargo xtask test --long`): minutes instead of seconds, more accounts, all formats with
//!   processes killed; `UNDERSTUDY_TEST_SECONDS=N`: traffic for so long, whatever the rest says;
//! - `UNDERSTUDY_TEST_KEEP=DIR`: logs of a mesh whose test failed are copied there.

mod kills;
mod level;
mod random;
mod sessions;
mod stopped;
mod trial;
mod worker;
