//! Undo: what held operations would destroy on a replica comes back on the active node.
//!
//! Owns: the way from held operations to messages on the active node, and back to a replica that holds nothing of it.
//! The replica tells what there is and where its bodies are in central storage; the active saves it under new UIDs and
//! has the account exported; only then are the old copies on the replicas let go. What can hurt: an undo that is cut
//! off half way; what came back is seen in the mailbox and not brought back twice, what did not is still held.
//! Refuses: touching anything else that happened since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use understudy_types::id::{BlobId, GroupId, MailboxGuid, NodeId};
use understudy_types::op::{Mailbox, Message, Op};

use super::holds::Holds;
use super::query::{self, Query, kind};
use crate::apply::cursor::Remember;
use crate::apply::hold::{Held, HeldKey, aside_name};
use crate::apply::plan::to_message;
use crate::clock;
use crate::control::orders::{HoldDone, HoldRequest, HoldRow, UndoMailbox, UndoReport};
use crate::digest::AccountState;
use crate::limits::{RESTORE_MESSAGES_MAX, UNDO_PROBLEMS_MAX, UNDO_UPLOAD_MS_MAX};
use crate::merge::wire::{Merged, put_merge};
use crate::store::{DumpOptions, Store};

/// A message that is to come back, and the held operations that are done with when it is.
struct Return {
    key: HeldKey,
    /// The deletion that it is part of.
    of_mailbox: Option<HeldKey>,
    message: Message,
}

/// Everything that is to come back.
#[derive(Default)]
struct Plan {
    returns: Vec<Return>,
    /// Deleted mailboxes: their name, and their attributes.
    mailboxes: BTreeMap<HeldKey, (Mailbox, Vec<Op>)>,
    /// Held operations that destroy nothing any more.
    void: Vec<HeldKey>,
}

impl Holds {
    /// Brings back what held operations of an account would destroy. Blocks.
    pub(crate) fn undo(&self, request: &HoldRequest) -> Result<UndoReport, String> {
        let account = request.account.as_deref().ok_or("name an account")?;
        let nodes = {
            let view = self.verifier.view.read();
            let group = view.placement.group(view.placement.group_of(account)).ok_or("the account is in no group")?;
            group.replicas.iter().copied().chain([group.active]).collect::<Vec<NodeId>>()
        };
        let mut problems = Vec::new();
        let mut best: Option<(NodeId, Vec<HoldRow>)> = None;
        let mut others = Vec::new();
        for node in nodes {
            let mut rows = match self.rows_at(node, Some(account)) {
                Ok(rows) => rows,
                Err(error) => {
                    problems.push(error);
                    continue;
                }
            };
            rows.retain(|row| {
                (request.ids.is_empty() || request.ids.contains(&row.id))
                    && request.since_wall_ns.is_none_or(|since| row.captured_wall_ns >= since)
            });
            if best.as_ref().is_none_or(|(_, most)| rows.len() > most.len()) && !rows.is_empty() {
                others.extend(best.take().map(|(node, _)| node));
                best = Some((node, rows));
            } else {
                others.push(node);
            }
        }
        let Some((node, rows)) = best else {
            let why = if problems.is_empty() { String::new() } else { format!(" ({})", problems.join("; ")) };
            return Err(format!("nothing of account `{account}` is held{why}"));
        };
        let mut report = if node == self.node {
            self.undo_here(request, (self.verifier.connect)().as_mut())?
        } else {
            self.ask::<_, UndoReport>(node, kind::UNDO, request)?
        };
        report.problems.extend(problems);
        if !request.dry_run && report.failed == 0 {
            // The other replicas hold the same: what it destroys is back.
            let ids = rows.into_iter().map(|row| row.id).collect();
            let request = HoldRequest { account: request.account.clone(), ids, undone: true, ..HoldRequest::default() };
            for node in others.into_iter().filter(|node| *node != self.node) {
                match self.ask::<_, HoldDone>(node, kind::RELEASE, &request) {
                    Ok(done) => report.problems.extend(done.problems),
                    Err(error) => report.problems.push(error),
                }
            }
        }
        Ok(report)
    }

    /// As [`Self::undo`], with what this node holds.
    pub(super) fn undo_here(&self, request: &HoldRequest, store: &mut dyn Store) -> Result<UndoReport, String> {
        let account = request.account.as_deref().ok_or("name an account")?;
        let chosen = self.chosen(request)?;
        let group = chosen.first().map(|(group, ..)| *group).ok_or("nothing of it is held here")?;
        let active = {
            let view = self.verifier.view.read();
            view.placement.group(group).map(|group| group.active).ok_or("the account is in no group")?
        };
        let mut report = UndoReport {
            account: account.to_owned(),
            dry_run: request.dry_run,
            node: (self.verifier.names)(self.node),
            active: (self.verifier.names)(active),
            ..UndoReport::default()
        };
        let there = self.state_of_active(active, account, store)?;
        let mut plan = self.plan(account, &chosen, store)?;
        let places = Places::find(&there, &mut plan);
        let mut mailboxes: BTreeMap<String, UndoMailbox> = BTreeMap::new();
        let mut row = |name: &str, change: &dyn Fn(&mut UndoMailbox)| {
            let row = mailboxes.entry(name.to_owned()).or_insert_with(|| UndoMailbox {
                name: name.to_owned(),
                created: !there.mailboxes.values().any(|mailbox| mailbox.name == name),
                ..UndoMailbox::default()
            });
            change(row);
        };
        plan.mailboxes.values().for_each(|(mailbox, _)| row(&mailbox.name, &|_| {}));
        let (mut failed, mut done): (BTreeSet<HeldKey>, Vec<Return>) = (BTreeSet::new(), Vec::new());
        // In their mailbox already: an undo before this one, or a user who had a copy.
        let have = guids(&there);
        let (already, wanted): (Vec<Return>, Vec<Return>) = plan.returns.drain(..).partition(|one| {
            have.get(&one.message.mailbox).is_some_and(|guids| guids.contains(one.message.guid.as_str()))
        });
        for one in already {
            report.already_there += 1;
            row(&one.message.mailbox_name, &|row| row.already_there += 1);
            done.push(one);
        }
        if request.dry_run {
            report.restored = wanted.len() as u64;
            wanted.iter().for_each(|one| row(&one.message.mailbox_name, &|row| row.restored += 1));
        } else {
            let mut ops: Vec<Op> = places.missing.iter().map(|(name, guid)| created(*guid, name)).collect();
            let first = ops.len();
            ops.extend(wanted.iter().map(|one| Op::MessageSaved { message: one.message.clone(), snapshot: 0 }));
            ops.extend(plan.mailboxes.values().flat_map(|(mailbox, attributes)| places.finish(mailbox, attributes)));
            let problems = self.merge_at(active, account, group, &ops, store);
            for (n, one) in wanted.into_iter().enumerate() {
                match problems.get(&(first + n)) {
                    None => {
                        report.restored += 1;
                        row(&one.message.mailbox_name, &|row| row.restored += 1);
                        done.push(one);
                    }
                    Some(_) => {
                        report.failed += 1;
                        row(&one.message.mailbox_name, &|row| row.failed += 1);
                        failed.extend(one.of_mailbox.into_iter().chain([one.key]));
                    }
                }
            }
            // A mailbox that could not be made, or given back what it had, stays held.
            if problems.keys().any(|n| *n < first || *n >= ops.len() - places.finishing(&plan.mailboxes)) {
                failed.extend(plan.mailboxes.keys());
            }
            report.problems.extend(problems.into_values().take(UNDO_PROBLEMS_MAX));
            let mut keys: BTreeSet<HeldKey> = done.iter().map(|one| one.key).chain(plan.void).collect();
            keys.extend(plan.mailboxes.keys());
            keys.retain(|key| !failed.contains(key));
            let ids = keys.into_iter().map(|key| key.id(group)).collect::<Vec<_>>();
            if !ids.is_empty() {
                report.released = self.let_go(account, group, ids, &mut report.problems);
            }
        }
        report.mailboxes = mailboxes.into_values().collect();
        Ok(report)
    }

    /// Their content is back: the held operations are applied.
    fn let_go(&self, account: &str, group: GroupId, ids: Vec<String>, problems: &mut Vec<String>) -> u64 {
        use crate::apply::orders::{Order, Which};

        let keys = ids.iter().filter_map(|id| HeldKey::parse(id)).map(|(_, key)| key).collect();
        let which = Which { account: Some(account.to_owned()), keys: Some(keys) };
        match self.order(group, Order::Release { which, undone: true }) {
            Ok(ordered) => {
                problems.extend(ordered.why);
                ordered.done
            }
            Err(error) => {
                problems.push(error);
                0
            }
        }
    }

    fn state_of_active(&self, active: NodeId, account: &str, store: &mut dyn Store) -> Result<AccountState, String> {
        if active == self.node {
            return whole(store, account, false);
        }
        let row = self.ask_bytes(active, kind::STATE, query::put_position(0, account))?;
        Ok(AccountState::from_ops(query::take_ops(&row)?))
    }

    /// What is to come back, with the bodies' names.
    fn plan(&self, account: &str, chosen: &[(GroupId, HeldKey, Held)], store: &mut dyn Store) -> Result<Plan, String> {
        let here = whole(store, account, false)?;
        let all = self.held_here(Some(account))?;
        let held_messages: HashMap<(MailboxGuid, u32), HeldKey> = all
            .iter()
            .filter_map(|(_, key, held)| match &held.op {
                Op::MessageExpunged { mailbox, uid, .. } => Some(((*mailbox, *uid), *key)),
                _ => None,
            })
            .collect();
        // A mailbox that stands aside is wanted under the name that it had.
        let names: HashMap<MailboxGuid, &str> = all
            .iter()
            .filter_map(|(_, _, held)| match &held.op {
                Op::MailboxDeleted { guid, .. } => Some((*guid, held.name.as_str())),
                _ => None,
            })
            .collect();
        let mut wanted: BTreeSet<HeldKey> = chosen.iter().map(|(_, key, _)| *key).collect();
        for (_, _, deletion) in chosen {
            if let Op::MailboxDeleted { guid, .. } = &deletion.op {
                wanted.extend(all.iter().filter(|(.., held)| held.is_part_of(*guid, deletion)).map(|(_, key, _)| *key));
            }
        }
        let mut plan = Plan::default();
        let mut taken = BTreeSet::new();
        for (_, key, held) in chosen {
            match (&held.op, &held.kept) {
                (Op::MessageExpunged { .. }, Some(Op::MessageSaved { message, .. })) => {
                    plan.returns.push(Return { key: *key, of_mailbox: None, message: message.clone() });
                }
                (Op::MessageExpunged { mailbox, uid, .. }, _) => {
                    let Some((at, state)) =
                        here.mailboxes.get(mailbox).and_then(|at| Some((at, at.messages.get(uid)?)))
                    else {
                        plan.void.push(*key);
                        continue;
                    };
                    if taken.insert((*mailbox, *uid)) {
                        let name = names.get(mailbox).copied().unwrap_or(&at.name);
                        let message = to_message(*mailbox, name, at.uid_validity, *uid, state);
                        plan.returns.push(Return { key: *key, of_mailbox: None, message });
                    }
                }
                (Op::MailboxDeleted { guid, name }, _) => {
                    let name = if held.name.is_empty() { name } else { &held.name };
                    let at = here.mailboxes.get(guid).filter(|at| at.name == aside_name(*guid));
                    let attributes =
                        at.map(|at| &at.attributes).into_iter().flatten().map(|((private, attribute), value)| {
                            Op::AttributeSet {
                                mailbox: Some(*guid),
                                private: *private,
                                key: attribute.clone(),
                                value: Some(value.clone()),
                                snapshot: 0,
                            }
                        });
                    let mailbox = Mailbox { guid: *guid, name: name.clone(), ..Mailbox::default() };
                    plan.mailboxes.insert(*key, (mailbox, attributes.collect()));
                    for (uid, state) in at.map(|at| &at.messages).into_iter().flatten() {
                        // One that was expunged before stays so, unless that is undone too.
                        let own = held_messages.get(&(*guid, *uid));
                        if own.is_some_and(|own| !wanted.contains(own)) || !taken.insert((*guid, *uid)) {
                            continue;
                        }
                        let message = to_message(*guid, name, 0, *uid, state);
                        let own = own.copied().unwrap_or(*key);
                        plan.returns.push(Return { key: own, of_mailbox: Some(*key), message });
                    }
                }
                _ => {}
            }
        }
        plan.returns.sort_by(|a, b| {
            let place = |one: &Return| (one.message.mailbox_name.clone(), one.message.uid);
            place(a).cmp(&place(b))
        });
        self.name_bodies(account, &mut plan, store)?;
        Ok(plan)
    }

    /// Finds each message's body in central storage; what was never there goes there now.
    fn name_bodies(&self, account: &str, plan: &mut Plan, store: &mut dyn Store) -> Result<(), String> {
        let mut unknown = false;
        for one in plan.returns.iter_mut().filter(|one| one.message.blob.is_none()) {
            one.message.blob =
                self.shared.cursors.body(account, &one.message.guid).map_err(|error| error.to_string())?;
            unknown |= one.message.blob.is_none();
        }
        if !unknown {
            return Ok(());
        }
        let with_bodies = whole(store, account, true)?;
        let mut wanted: BTreeSet<BlobId> = BTreeSet::new();
        for one in plan.returns.iter_mut().filter(|one| one.message.blob.is_none()) {
            let at = with_bodies.mailboxes.get(&one.message.mailbox);
            one.message.blob = at.and_then(|at| at.messages.get(&one.message.uid)).and_then(|message| message.blob);
            wanted.extend(one.message.blob);
        }
        let query = Query::Upload { bodies: wanted.iter().copied().collect() };
        self.verifier.queries.send(query).map_err(|_| "the agent is stopping")?;
        let end = clock::mono().after(Duration::from_millis(UNDO_UPLOAD_MS_MAX));
        while clock::mono() < end {
            wanted.retain(|id| !self.blobs.has(*id).unwrap_or(false));
            if wanted.is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("{} bodies do not get into central storage; try again", wanted.len()))
    }

    /// Has the active merge operations into the account, in order. Gives those that it did not take, and why.
    fn merge_at(
        &self,
        active: NodeId,
        account: &str,
        group: GroupId,
        ops: &[Op],
        store: &mut dyn Store,
    ) -> BTreeMap<usize, String> {
        let mut problems = BTreeMap::new();
        let epoch = self.verifier.view.read().placement.group(group).map(|group| group.epoch).unwrap_or_default();
        let mut at = 0;
        while at < ops.len() {
            let until = ops.len().min(at + RESTORE_MESSAGES_MAX);
            let mut row = Vec::new();
            ops[at..until].iter().for_each(|op| query::put_op(&mut row, op));
            let body = put_merge(epoch, account, &row);
            let answer = if active == self.node {
                self.verifier.answer(kind::MERGE, &body, store)
            } else {
                self.ask_bytes(active, kind::MERGE, body)
            };
            let merged = answer.and_then(|json| serde_json::from_slice::<Merged>(&json).map_err(|e| e.to_string()));
            match merged {
                Ok(Merged { failed: None, .. }) => at = until,
                // It stops at the first that it does not take.
                Ok(Merged { applied, already, failed: Some(why) }) => {
                    let taken = usize::try_from(applied + already).unwrap_or(usize::MAX);
                    at = until.min(at.saturating_add(taken));
                    problems.insert(at, why);
                    at += 1;
                }
                // Nothing is known: what came back is seen there by the next undo.
                Err(why) => {
                    problems.extend((at..ops.len()).map(|n| (n, why.clone())));
                    break;
                }
            }
        }
        problems
    }
}

/// Where what comes back goes on the active node.
#[derive(Default)]
struct Places {
    /// Mailboxes that are not there any more: they are made again, with an identity of their own.
    missing: BTreeMap<String, MailboxGuid>,
    /// By the identity that they had.
    made: HashMap<MailboxGuid, MailboxGuid>,
}

impl Places {
    /// Gives every message its mailbox on the active node: its own if that lives, else the one of its name.
    fn find(there: &AccountState, plan: &mut Plan) -> Self {
        let mut places = Self::default();
        let names: HashMap<&str, MailboxGuid> =
            there.mailboxes.iter().map(|(guid, mailbox)| (mailbox.name.as_str(), *guid)).collect();
        let mut place = |guid: MailboxGuid, name: &str| {
            if there.mailboxes.contains_key(&guid) {
                return guid;
            }
            if let Some(guid) = names.get(name) {
                return *guid;
            }
            let fresh = *places.missing.entry(name.to_owned()).or_insert_with(|| MailboxGuid(rand::random()));
            places.made.insert(guid, fresh);
            fresh
        };
        for one in &mut plan.returns {
            one.message.mailbox = place(one.message.mailbox, &one.message.mailbox_name);
        }
        for (mailbox, _) in plan.mailboxes.values() {
            place(mailbox.guid, &mailbox.name);
        }
        places
    }

    /// What a mailbox that was made again gets at last: its attributes, and a subscription.
    fn finish(&self, mailbox: &Mailbox, attributes: &[Op]) -> Vec<Op> {
        let Some(guid) = self.made.get(&mailbox.guid) else { return Vec::new() };
        let mut ops: Vec<Op> = attributes
            .iter()
            .filter_map(|op| match op.clone() {
                Op::AttributeSet { private, key, value, .. } => {
                    Some(Op::AttributeSet { mailbox: Some(*guid), private, key, value, snapshot: 0 })
                }
                _ => None,
            })
            .collect();
        ops.push(Op::Subscribed { name: mailbox.name.clone(), snapshot: 0 });
        ops
    }

    fn finishing(&self, mailboxes: &BTreeMap<HeldKey, (Mailbox, Vec<Op>)>) -> usize {
        mailboxes.values().map(|(mailbox, attributes)| self.finish(mailbox, attributes).len()).sum()
    }
}

fn created(guid: MailboxGuid, name: &str) -> Op {
    Op::MailboxCreated { mailbox: Mailbox { guid, name: name.to_owned(), ..Mailbox::default() }, snapshot: 0 }
}

pub(super) fn whole(store: &mut dyn Store, account: &str, bodies: bool) -> Result<AccountState, String> {
    let mut state = AccountState::default();
    let options = DumpOptions { messages: true, bodies };
    store.dump(account, options, &mut |op| state.add(op)).map_err(|error| error.to_string())?;
    Ok(state)
}

fn guids(there: &AccountState) -> HashMap<MailboxGuid, BTreeSet<&str>> {
    let mut guids: HashMap<MailboxGuid, BTreeSet<&str>> = HashMap::new();
    for (guid, mailbox) in &there.mailboxes {
        guids.insert(*guid, mailbox.messages.values().map(|message| message.guid.as_str()).collect());
    }
    guids
}
