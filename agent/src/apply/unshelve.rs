//! The end of holding: a held operation is applied when its time has come or an administrator says so, or is dropped.
//!
//! Owns: release, discard, and the orders of administrators for one group. What can hurt: a mailbox that was made again
//! or renamed since its deletion was held; it is deleted only while it stands aside. A store that does not take one
//! operation; the others go on, and that one is tried again later. Refuses: destroying anything before the cursor that
//! stands behind it is on disk.

use std::time::Duration;

use understudy_types::op::Op;

use super::applier::{ApplyError, GroupApplier, Tools};
use super::hold::{HeldKey, aside_name};
use super::live::PLANNED;
use super::orders::{Order, Ordered, Which};
use super::park::{Parked, Reason};
use super::request::{apply_each, is_fine};
use crate::digest::AccountState;
use crate::limits::{HELD_ACCOUNT_OPS_MAX, HELD_LOOK_MS, HELD_RETRY_MS};
use crate::rules::OnPromotion;
use crate::store::Status;

impl GroupApplier {
    /// Applies what is due, and the oldest of an account that holds too much.
    pub(super) fn release_due(&mut self, tools: &mut Tools<'_>) -> Result<(), ApplyError> {
        let now = tools.now;
        // Once this node is active, what its store has is what counts: see `Order::Promote`.
        if self.ceiling.is_some() || self.shelf.is_empty() || self.release_at > now {
            return Ok(());
        }
        self.release_at = now.after(Duration::from_millis(HELD_LOOK_MS));
        self.held_retry.retain(|_, at| *at > now);
        let waits = |account: &str| {
            self.held_retry.contains_key(account)
                || self.lot.get(account).is_some()
                || self.is_braked(account, tools)
                || tools.orders.account_paused(self.group, account, tools.wall_ns).is_some()
        };
        let mut due = self.shelf.due(tools.wall_ns, waits);
        for (account, count) in self.shelf.accounts().filter(|(account, _)| !self.held_retry.contains_key(*account)) {
            if let Some(excess) = count.checked_sub(HELD_ACCOUNT_OPS_MAX).filter(|excess| *excess > 0) {
                tracing::warn!(account, excess, "too many held operations: the oldest are applied before their time");
                due.push((account.to_owned(), self.shelf.of(account).take(excess).map(|(key, _)| key).collect()));
            }
        }
        for (account, keys) in due {
            let ordered = self.release_held(&account, &keys, tools)?;
            if ordered.left > 0 {
                let why = ordered.why.unwrap_or_default();
                tracing::warn!(account, left = ordered.left, why, "held operations cannot be applied; tried again");
                self.held_retry.insert(account, tools.now.after(Duration::from_millis(HELD_RETRY_MS)));
            }
        }
        Ok(())
    }

    /// Applies held operations of an account.
    pub(super) fn release_held(
        &mut self,
        account: &str,
        keys: &[HeldKey],
        tools: &mut Tools<'_>,
    ) -> Result<Ordered, ApplyError> {
        let mut ordered = Ordered::default();
        if keys.is_empty() {
            return Ok(ordered);
        }
        // After it, a crash repeats nothing that comes before what is destroyed now.
        self.flush(tools, true)?;
        let mut wanted: Vec<(HeldKey, Option<Op>)> = Vec::new();
        let mut names = None;
        for key in keys {
            let Some(held) = self.shelf.get(*key).filter(|held| held.account == account) else { continue };
            let op = match &held.op {
                _ if !held.is_in_store() => None,
                Op::MailboxDeleted { guid, .. } => {
                    let guid = *guid;
                    if names.is_none() {
                        names = match self.look(account, false, tools)? {
                            Ok(state) => Some(state),
                            Err(parked) => return Ok(all_left(keys, parked.detail)),
                        };
                    }
                    // One that somebody made again or renamed is nobody's to delete.
                    let aside = aside_name(guid);
                    let stands = names.as_ref().and_then(|state| state.mailboxes.get(&guid));
                    stands.filter(|have| have.name == aside).map(|_| Op::MailboxDeleted { guid, name: aside })
                }
                op => Some(op.clone()),
            };
            wanted.push((*key, op));
        }
        let ops: Vec<Op> = wanted.iter().filter_map(|(_, op)| op.clone()).collect();
        let outcomes = match apply_each(tools, account, &ops) {
            Ok(outcomes) => outcomes,
            Err(error) => return Ok(all_left(keys, self.gave_up(account, PLANNED, error)?.detail)),
        };
        let mut outcomes = outcomes.into_iter();
        for (key, op) in wanted {
            match op.and_then(|_| outcomes.next()) {
                // Its mailbox is gone, or its place is another's: there is nothing left to destroy.
                Some(outcome)
                    if !is_fine(outcome.status)
                        && !matches!(outcome.status, Status::NoMailbox | Status::UidConflict) =>
                {
                    ordered.left += 1;
                    ordered.why.get_or_insert_with(|| format!("{:?}: {}", outcome.status, outcome.detail));
                }
                _ => {
                    self.take_held(key);
                    ordered.done += 1;
                }
            }
        }
        Ok(ordered)
    }

    /// Drops held operations of an account: what they would have destroyed stays. A mailbox gets its name back, or one
    /// like it if that is taken.
    fn discard_held(&mut self, account: &str, keys: &[HeldKey], tools: &mut Tools<'_>) -> Result<Ordered, ApplyError> {
        let mut ordered = Ordered::default();
        let mut state = match self.look(account, false, tools)? {
            Ok(state) => state,
            Err(parked) => return Ok(all_left(keys, parked.detail)),
        };
        for key in keys {
            let Some(held) = self.shelf.get(*key).filter(|held| held.account == account).cloned() else { continue };
            if !held.is_in_store() {
                ordered.left += 1;
                ordered.why = Some("the store does not have it any more; `understudy hold undo` brings it back".into());
                continue;
            }
            if let Op::MailboxDeleted { guid, .. } = &held.op
                && state.mailboxes.get(guid).is_some_and(|have| have.name == aside_name(*guid))
            {
                let name = free_name(&state, &held.name);
                let op = Op::MailboxRenamed { guid: *guid, old_name: aside_name(*guid), new_name: name.clone() };
                match apply_each(tools, account, &[op]) {
                    Ok(outcomes) if outcomes.iter().all(|outcome| is_fine(outcome.status)) => {
                        if let Some(mailbox) = state.mailboxes.get_mut(guid) {
                            mailbox.name = name;
                        }
                    }
                    Ok(outcomes) => {
                        ordered.left += 1;
                        ordered.why = outcomes.first().map(|outcome| outcome.detail.clone());
                        continue;
                    }
                    Err(error) => {
                        ordered.left += 1;
                        ordered.why = Some(self.gave_up(account, PLANNED, error)?.detail);
                        continue;
                    }
                }
            }
            self.take_held(*key);
            ordered.done += 1;
        }
        if ordered.done > 0 {
            ordered.kept.push(account.to_owned());
        }
        Ok(ordered)
    }

    /// Does what an administrator orders.
    ///
    /// # Errors
    /// When the store cannot be asked or the cursor cannot be written.
    pub fn order(&mut self, order: &Order, tools: &mut Tools<'_>) -> Result<Ordered, ApplyError> {
        let mut ordered = Ordered::default();
        match order {
            Order::Release { which, undone } => {
                for (account, keys) in self.chosen(which) {
                    let all = keys.len() == self.shelf.count(&account);
                    ordered.add(self.release_held(&account, &keys, tools)?);
                    // What came in the storm and is not named waits on.
                    if all {
                        self.let_go_of_brake(&account, *undone);
                    }
                }
                // A storm of which nothing is held is called off too.
                if let (Some(account), None) = (&which.account, &which.keys) {
                    self.let_go_of_brake(account, *undone);
                }
            }
            Order::Discard { which } => {
                for (account, keys) in self.chosen(which) {
                    ordered.add(self.discard_held(&account, &keys, tools)?);
                }
            }
            Order::Promote => {
                for (account, keys) in self.chosen(&Which::default()) {
                    ordered.add(match tools.orders.hold(&account).on_promotion {
                        OnPromotion::Apply => self.release_held(&account, &keys, tools)?,
                        OnPromotion::Keep => self.discard_held(&account, &keys, tools)?,
                    });
                    self.let_go_of_brake(&account, true);
                }
            }
            Order::Retry { account } => {
                self.deaths.remove(account);
                ordered.done = u64::from(self.lot.retry(account, tools.now));
            }
            Order::Skip { account } => {
                if self.lot.get(account).is_some() {
                    self.deaths.remove(account);
                    let reason = Reason::NeedsSnapshot { bodies: true };
                    let detail = "an administrator passed over its operations".to_owned();
                    self.park(account, Parked { since_seq: self.applied + 1, detail, reason }, tools);
                    ordered.done = 1;
                }
            }
        }
        self.flush(tools, true)?;
        Ok(ordered)
    }

    fn let_go_of_brake(&mut self, account: &str, undone: bool) {
        if let Some(brake) = self.brakes.get_mut(account).filter(|brake| brake.trip().is_some()) {
            if undone {
                brake.undone()
            } else {
                brake.harmless()
            }
            self.update.brakes.insert(account.to_owned(), brake.clone());
            self.touched.insert(account.to_owned());
        }
    }

    fn chosen(&self, which: &Which) -> Vec<(String, Vec<HeldKey>)> {
        let accounts: Vec<String> = match &which.account {
            Some(account) => vec![account.clone()],
            None => self.shelf.accounts().map(|(account, _)| account.to_owned()).collect(),
        };
        let wanted = |key: &HeldKey| which.keys.as_ref().is_none_or(|keys| keys.contains(key));
        accounts
            .into_iter()
            .map(|account| {
                let keys = self.shelf.of(&account).map(|(key, _)| key).filter(wanted).collect::<Vec<_>>();
                (account, keys)
            })
            .filter(|(_, keys)| !keys.is_empty())
            .collect()
    }
}

fn all_left(keys: &[HeldKey], why: String) -> Ordered {
    Ordered { left: keys.len() as u64, why: Some(why), ..Ordered::default() }
}

/// The name, or one like it that nobody has.
fn free_name(state: &AccountState, name: &str) -> String {
    let is_taken =
        |name: &str| state.mailboxes.values().any(|mailbox| mailbox.name == name) || state.directories.contains(name);
    let candidates = std::iter::once(name.to_owned())
        .chain((1..).map(|n| if n == 1 { format!("{name} (kept)") } else { format!("{name} (kept {n})") }));
    candidates.into_iter().find(|name| !is_taken(name)).unwrap_or_else(|| name.to_owned())
}
