//! Completion slots: where the agent answers a producer that wants an acknowledgement.
//!
//! Owns: the state word of each slot (state, owner, ticket) and the answer beside it.
//! What can hurt: an answer that comes after its asker gave up or died, and would reach the slot's next user.
//! Every change is a compare-and-swap of the whole word with its ticket, and an answer is written only while
//! the slot is in `ANSWERING`, which nobody else may take away.
//! Refuses: waiting, and clocks.

use crate::sync::{AtomicU64, Ordering, planted};
use understudy_types::ring::{ANSWER_BYTES_MAX, COMPLETION_WORDS, CompletionRef, Owner, Status};

const FREE: u32 = 0;
const PENDING: u32 = 1;
const ANSWERING: u32 = 2;
/// The asker gave up while the answer was being written; whoever finishes the answer frees the slot.
const LOST: u32 = 3;
const DONE: u32 = 16;

/// A slot's word. Low half: state (8 bits), producer slot (13), short incarnation (9). High half: ticket.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn new(state: u32, owner: Option<Owner>, ticket: u32) -> Self {
        let who = owner.map_or(0, |owner| u32::from(owner.slot) << 8 | owner.short_incarnation() << 21);
        Self(u64::from(state | who) | u64::from(ticket) << 32)
    }

    fn state(self) -> u32 {
        self.0 as u32 & 0xFF
    }

    #[cfg(not(loom))]
    fn slot(self) -> u16 {
        (self.0 >> 8 & 0x1FFF) as u16
    }

    #[cfg(not(loom))]
    fn short_incarnation(self) -> u32 {
        (self.0 >> 21 & 0x1FF) as u32
    }

    fn ticket(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn with_state(self, state: u32) -> Self {
        Self(self.0 & !0xFF | u64::from(state))
    }

    fn freed(self) -> Self {
        Self::new(FREE, None, self.ticket().wrapping_add(1))
    }
}

/// An answer that was copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) bytes: [u8; ANSWER_BYTES_MAX],
}

/// What a look at a slot found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collected {
    Answer(Answer),
    /// No answer yet; the low half of the word, to sleep on.
    Pending(u32),
    /// The slot is no longer this asker's: the agent took it back, or its word was damaged.
    Gone,
}

/// All slots of a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots<'a> {
    /// `COMPLETION_WORDS` words for each slot, a power of two of them.
    pub(crate) words: &'a [AtomicU64],
}

impl<'a> Slots<'a> {
    fn count(&self) -> usize {
        self.words.len() / COMPLETION_WORDS
    }

    fn slot(&self, slot: u32) -> Option<&'a [AtomicU64]> {
        let start = (slot as usize).checked_mul(COMPLETION_WORDS)?;
        self.words.get(start..start.checked_add(COMPLETION_WORDS)?)
    }

    fn load(&self, at: CompletionRef) -> Option<(&'a [AtomicU64], Word)> {
        let words = self.slot(at.slot)?;
        // SYNC POINT answer: pairs with the last swap of `answer`.
        let word = Word(words[0].load(Ordering::Acquire));
        (word.ticket() == at.ticket).then_some((words, word))
    }

    fn swap(words: &[AtomicU64], from: Word, to: Word) -> bool {
        words[0].compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes a free slot, looking from `hint` on; `None` when every slot is in use.
    pub(crate) fn claim(&self, owner: Owner, hint: u32) -> Option<CompletionRef> {
        let count = self.count();
        for step in 0..count {
            let slot = (hint as usize + step) & (count - 1);
            let words = &self.words[slot * COMPLETION_WORDS..];
            let found = Word(words[0].load(Ordering::Acquire));
            if found.state() == FREE && Self::swap(words, found, Word::new(PENDING, Some(owner), found.ticket())) {
                return Some(CompletionRef { slot: slot as u32, ticket: found.ticket() });
            }
        }
        None
    }

    /// Agent: answers. `false` when nobody waits any more, or the answer is too long.
    pub(crate) fn answer(&self, at: CompletionRef, status: Status, bytes: &[u8]) -> bool {
        let Some((words, found)) = self.load(at) else { return false };
        if found.state() != PENDING || bytes.len() > ANSWER_BYTES_MAX {
            return false;
        }
        let answering = found.with_state(ANSWERING);
        if !Self::swap(words, found, answering) {
            return false;
        }
        let mut answer = [0; ANSWER_BYTES_MAX];
        answer[..bytes.len()].copy_from_slice(bytes);
        for (chunk, word) in answer.chunks_exact(8).zip(&words[1..]) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
        }
        // SYNC POINT answer.
        if Self::swap(words, answering, answering.with_state(DONE + status as u32)) {
            return true;
        }
        let _ = Self::swap(words, answering.with_state(LOST), answering.freed());
        false
    }

    /// Asker: takes the answer and frees the slot, if there is one.
    pub(crate) fn collect(&self, at: CompletionRef) -> Collected {
        let Some((words, found)) = self.load(at) else { return Collected::Gone };
        match found.state() {
            PENDING | ANSWERING => Collected::Pending(found.0 as u32),
            state if state >= DONE => {
                let mut bytes = [0; ANSWER_BYTES_MAX];
                for (chunk, word) in bytes.chunks_exact_mut(8).zip(&words[1..]) {
                    chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
                }
                let freed = Self::swap(words, found, found.freed());
                match u8::try_from(state - DONE).ok().and_then(Status::from_u8) {
                    Some(status) if freed => Collected::Answer(Answer { status, bytes }),
                    _ => Collected::Gone,
                }
            }
            _ => Collected::Gone,
        }
    }

    /// Asker: gives up. An answer that came at the last moment is given after all.
    pub(crate) fn cancel(&self, at: CompletionRef) -> Option<Answer> {
        // Three turns: pending -> answering -> done is all that can happen in between.
        for _ in 0..3 {
            let (words, found) = self.load(at)?;
            match found.state() {
                PENDING => {
                    if planted("plain_cancel") {
                        words[0].store(found.freed().0, Ordering::Release);
                        return None;
                    }
                    if Self::swap(words, found, found.freed()) {
                        return None;
                    }
                }
                ANSWERING => {
                    if Self::swap(words, found, found.with_state(LOST)) {
                        return None;
                    }
                }
                _ => {
                    return match self.collect(at) {
                        Collected::Answer(answer) => Some(answer),
                        _ => None,
                    };
                }
            }
        }
        None
    }

    /// Agent: takes back the slots whose asker is dead. Gives how many.
    #[cfg(not(loom))]
    pub(crate) fn reap(&self, mut alive: impl FnMut(u16, u32) -> bool) -> usize {
        self.words
            .chunks_exact(COMPLETION_WORDS)
            .filter(|words| {
                let found = Word(words[0].load(Ordering::Acquire));
                let taken = found.state() == PENDING || found.state() >= DONE;
                taken && !alive(found.slot(), found.short_incarnation()) && Self::swap(words, found, found.freed())
            })
            .count()
    }

    /// Agent, at start: frees the slots in which a dead agent was writing an answer. Their askers see
    /// that the slot is gone.
    #[cfg(not(loom))]
    pub(crate) fn reset_unfinished(&self) {
        for words in self.words.chunks_exact(COMPLETION_WORDS) {
            let found = Word(words[0].load(Ordering::Acquire));
            let senseless = (LOST + 1..DONE).contains(&found.state());
            if found.state() == ANSWERING || found.state() == LOST || senseless {
                let _ = Self::swap(words, found, found.freed());
            }
        }
    }
}
