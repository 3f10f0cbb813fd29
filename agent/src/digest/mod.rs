//! The state of an account as a client can see it, its digest, and the first difference between two of them.
//!
//! Owns: what "equal" means. What can hurt: a figure that stores may differ in without a client noticing would make
//! every comparison fail, and one left out would hide a loss; the list stands at [`state::AccountState::digest`].
//! Refuses: asking a store for anything; the state is built from the operations of a dump.

pub mod compare;
pub mod state;

pub use compare::{Difference, first_difference};
pub use state::{AccountState, MailboxState, MessageState, is_below};
