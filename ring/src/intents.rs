//! Open intents: changes that a producer was about to commit.
//!
//! Owns: the consumer's table by producer and id, and its short copy in the ring file, which a new agent reads so
//! that intents whose records were released before the old one died are not forgotten.
//! What can hurt: producers that open intents and never end them. The table is bounded in entries and bytes;
//! past either, the intent is reported as orphaned at once, and its account compared.
//! Refuses: deciding who is dead; the caller says so.

use crate::memory::Words;
use crate::sync::Ordering;
use std::collections::HashMap;
use understudy_types::ring::{INTENT_WORDS, Layout, Owner, gap_bucket};

/// Most intents that are remembered with their account.
const INTENTS_MAX: usize = 65_536;
/// Most bytes of accounts and payloads that are remembered.
const INTENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bit of an entry's first word: it is used. Below it the slot, in the upper half the incarnation.
const USED: u64 = 1 << 16;

/// An intent whose producer is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanedIntent {
    /// Who opened it.
    pub producer: Owner,
    /// Its id.
    pub intent: u64,
    /// Bucket of the account in the gap bitmap.
    pub bucket: u16,
    /// The account; `None` when the intent was opened before this agent started: compare the bucket.
    pub account: Option<Vec<u8>>,
    /// What the intent named (a mailbox GUID).
    pub payload: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    bucket: u16,
    account: Option<Vec<u8>>,
    payload: Vec<u8>,
    /// Index in the shared table, if there was room.
    entry: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Intents {
    open: HashMap<(Owner, u64), Open>,
    per_owner: HashMap<Owner, u32>,
    free: Vec<usize>,
    bytes: usize,
}

impl Intents {
    /// Reads the shared table.
    pub(crate) fn new(words: Words<'_>, layout: &Layout) -> Self {
        let mut intents = Self { open: HashMap::new(), per_owner: HashMap::new(), free: Vec::new(), bytes: 0 };
        for entry in (0..layout.geometry.intents as usize).rev() {
            let at = layout.intents + entry * INTENT_WORDS;
            let who = words.control[at].load(Ordering::Acquire);
            if who & USED == 0 {
                intents.free.push(entry);
                continue;
            }
            let owner = Owner { slot: who as u16, incarnation: (who >> 32) as u32 };
            let intent = words.control[at + 1].load(Ordering::Relaxed);
            let bucket = words.control[at + 2].load(Ordering::Relaxed) as u16;
            let open = Open { bucket, account: None, payload: Vec::new(), entry: Some(entry) };
            if intents.open.insert((owner, intent), open).is_none() {
                *intents.per_owner.entry(owner).or_default() += 1;
            }
        }
        intents
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Gap buckets of the accounts with an open intent, in order, each once.
    pub(crate) fn buckets(&self) -> Vec<u16> {
        let mut buckets: Vec<u16> = self.open.values().map(|open| open.bucket).collect();
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        self.per_owner.keys().copied()
    }

    /// Remembers an intent. Gives it back as orphaned when there is no room for it.
    pub(crate) fn begin(
        &mut self,
        words: Words<'_>,
        layout: &Layout,
        producer: Owner,
        intent: u64,
        account: &[u8],
        payload: &[u8],
    ) -> Option<OrphanedIntent> {
        // The same one again: read by the agent before this one, and not released.
        self.end(words, layout, producer, intent);
        let bucket = gap_bucket(account);
        if self.open.len() >= INTENTS_MAX || self.bytes + account.len() + payload.len() > INTENT_BYTES_MAX {
            let account = Some(account.to_vec());
            return Some(OrphanedIntent { producer, intent, bucket, account, payload: payload.to_vec() });
        }
        let entry = self.free.pop();
        if let Some(entry) = entry {
            let at = layout.intents + entry * INTENT_WORDS;
            words.control[at + 1].store(intent, Ordering::Relaxed);
            words.control[at + 2].store(u64::from(bucket), Ordering::Relaxed);
            let who = u64::from(producer.slot) | USED | u64::from(producer.incarnation) << 32;
            words.control[at].store(who, Ordering::Release);
        }
        self.bytes += account.len() + payload.len();
        let open = Open { bucket, account: Some(account.to_vec()), payload: payload.to_vec(), entry };
        self.open.insert((producer, intent), open);
        *self.per_owner.entry(producer).or_default() += 1;
        None
    }

    /// Forgets an intent that was ended or closed.
    pub(crate) fn end(&mut self, words: Words<'_>, layout: &Layout, producer: Owner, intent: u64) {
        let Some(open) = self.open.remove(&(producer, intent)) else { return };
        self.forgot(words, layout, producer, &open);
    }

    fn forgot(&mut self, words: Words<'_>, layout: &Layout, producer: Owner, open: &Open) {
        self.bytes = self.bytes.saturating_sub(open.account.as_ref().map_or(0, Vec::len) + open.payload.len());
        if let Some(entry) = open.entry {
            words.control[layout.intents + entry * INTENT_WORDS].store(0, Ordering::Release);
            self.free.push(entry);
        }
        if let Some(count) = self.per_owner.get_mut(&producer) {
            *count -= 1;
            if *count == 0 {
                self.per_owner.remove(&producer);
            }
        }
    }

    /// Takes all intents of a producer that is gone.
    pub(crate) fn orphan(&mut self, words: Words<'_>, layout: &Layout, producer: Owner) -> Vec<OrphanedIntent> {
        let keys: Vec<_> = self.open.keys().filter(|(owner, _)| *owner == producer).copied().collect();
        let mut orphans = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(open) = self.open.remove(&key) else { continue };
            self.forgot(words, layout, producer, &open);
            let Open { bucket, account, payload, .. } = open;
            orphans.push(OrphanedIntent { producer, intent: key.1, bucket, account, payload });
        }
        orphans.sort_by_key(|orphan| orphan.intent);
        orphans
    }
}
