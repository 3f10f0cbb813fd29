//! Users: what they do to their mail on whichever node lets them, and what its store then publishes.
//!
//! Owns: the changes, with the identities that a store assigns. What can hurt: users that are kinder than real ones; so
//! flags and expunges are published a moment after their commit, by sessions that know nothing of each other (measured
//! with Dovecot: one of twenty to thirty records of one message comes in the wrong order), while saves are published
//! under the store's lock. Refuses: agents.

use std::sync::Arc;

use understudy_agent::digest::{AccountState, MailboxState, MessageState};
use understudy_agent::store::{ApplyItem, DumpOptions, Status, Store};
use understudy_ring::AckLevel;
use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::{Mailbox, Message, Op, flag};

use crate::checker::Change;
use crate::checker::mail::Fact;
use crate::host::Host;
use crate::plan::{AccountPlan, Plan};
use crate::random::Random;

/// A change that was committed and is to be published.
#[derive(Clone, Debug)]
pub struct Committed {
    pub op: Op,
    pub change: Change,
    /// How long after the commit its session publishes it.
    pub delay_ns: u64,
}

/// What all users of a world share: the next of everything that must not come twice.
#[derive(Debug)]
pub struct Users {
    plan: Arc<Plan>,
    random: Random,
    next_guid: u64,
    next_mailbox: u64,
    next_validity: u32,
}

/// A mailbox and one of its messages.
type Chosen = (MailboxGuid, MailboxState, u32, MessageState);

impl Users {
    /// Users of a world.
    #[must_use]
    pub fn new(plan: &Arc<Plan>) -> Self {
        Self {
            plan: plan.clone(),
            random: Random::new(plan.seed, 3),
            next_guid: 1,
            next_mailbox: 1,
            next_validity: 1_000_000,
        }
    }

    /// How long a user waits before the next change.
    pub fn pause_ns(&mut self) -> u64 {
        let (low, high) = self.plan.user_pause_ns;
        self.random.within(low, high)
    }

    /// The user of an account does something on a node that lets it.
    pub fn act(&mut self, account: usize, host: &mut Host, now_ns: u64) -> Vec<Committed> {
        let plan = self.plan.clone();
        let Some(of) = plan.accounts.get(account) else { return Vec::new() };
        let mut session =
            Session { users: self, account, of, host, now_ns, state: AccountState::default(), done: Vec::new() };
        session.read();
        session.act();
        session.done
    }
}

/// One user's moment.
struct Session<'a> {
    users: &'a mut Users,
    account: usize,
    of: &'a AccountPlan,
    host: &'a mut Host,
    now_ns: u64,
    state: AccountState,
    done: Vec<Committed>,
}

const INBOX: &str = "INBOX";

impl Session<'_> {
    fn read(&mut self) {
        let options = DumpOptions { messages: true, bodies: false };
        let mut state = AccountState::default();
        // A store in memory knows every account of the plan.
        let _ = self.host.store.dump(&self.of.name, options, &mut |op| state.add(op));
        self.state = state;
    }

    fn act(&mut self) {
        let full = self.state.message_count() >= self.users.plan.messages_max;
        match self.users.random.weighted(&self.users.plan.wishes.clone()) {
            0 if full => self.expunge(),
            0 => self.deliver(INBOX),
            1 => match self.mailbox() {
                Some((_, mailbox)) if !full => self.deliver(&mailbox.name.clone()),
                _ => self.deliver(INBOX),
            },
            2 => self.flags(1),
            3 => self.flags(2),
            4 => self.expunge(),
            5 => self.copy(false),
            6 => self.copy(true),
            7 => self.create(),
            8 => self.delete(),
            9 => self.rename(),
            10 => self.subscribe(),
            _ => self.annotate(),
        }
    }

    fn mailbox(&mut self) -> Option<(MailboxGuid, MailboxState)> {
        let all: Vec<_> = self.state.mailboxes.iter().map(|(guid, mailbox)| (*guid, mailbox.clone())).collect();
        self.users.random.pick(&all).cloned()
    }

    fn message(&mut self) -> Option<Chosen> {
        let all: Vec<(MailboxGuid, u32)> = self
            .state
            .mailboxes
            .iter()
            .flat_map(|(guid, mailbox)| mailbox.messages.keys().map(|uid| (*guid, *uid)))
            .collect();
        let (guid, uid) = self.users.random.pick(&all).copied()?;
        let mailbox = self.state.mailboxes.get(&guid)?.clone();
        let message = mailbox.messages.get(&uid)?.clone();
        Some((guid, mailbox, uid, message))
    }

    /// Lets the store commit it; `true` when it did.
    fn commit(&mut self, op: Op, body: Option<std::path::PathBuf>, facts: Vec<Fact>, delay_ns: u64) -> bool {
        let blob = op.blob();
        let item = ApplyItem { op: op.clone(), body_path: body };
        let outcomes = self.host.store.apply(&self.of.name, &[item]).unwrap_or_default();
        if outcomes.first().map(|outcome| outcome.status) != Some(Status::Applied) {
            return false;
        }
        let change = Change {
            account: self.account,
            group: self.of.group,
            node: self.host.id,
            level: self.of.level,
            peers: self.of.peers,
            facts,
            blob,
            at_ns: self.now_ns,
            acked: false,
            for_good: false,
        };
        self.done.push(Committed { op, change, delay_ns });
        self.read();
        true
    }

    fn later_ns(&mut self) -> u64 {
        self.users.random.within(5_000, 4_000_000)
    }

    fn guid_of(&mut self) -> MailboxGuid {
        let mut guid = [0xab; 16];
        guid[..8].copy_from_slice(&self.users.next_mailbox.to_le_bytes());
        self.users.next_mailbox += 1;
        MailboxGuid(guid)
    }

    fn make(&mut self, name: &str) -> Option<MailboxGuid> {
        let guid = self.guid_of();
        self.users.next_validity += 1;
        let uid_validity = self.users.next_validity;
        let mailbox = Mailbox { guid, name: name.to_owned(), uid_validity, next_uid: 1, ..Mailbox::default() };
        let op = Op::MailboxCreated { mailbox, snapshot: 0 };
        self.commit(op, None, vec![Fact::Created { mailbox: guid }], 0).then_some(guid)
    }

    fn find(&self, name: &str) -> Option<(MailboxGuid, MailboxState)> {
        self.state.mailboxes.iter().find(|(_, m)| m.name == name).map(|(guid, mailbox)| (*guid, mailbox.clone()))
    }

    fn deliver(&mut self, name: &str) {
        if self.find(name).is_none() {
            self.make(name);
        }
        let Some((guid, mailbox)) = self.find(name) else { return };
        let number = self.users.next_guid;
        self.users.next_guid += 1;
        let lines = self.users.random.within(1, 6);
        let body = format!("Subject: {number}\r\n\r\n{}", "text \r\n".repeat(usize::try_from(lines).unwrap_or(1)));
        let (blob, path) = self.host.place.put(body.as_bytes());
        let message = Message {
            mailbox: guid,
            mailbox_name: name.to_owned(),
            uid_validity: mailbox.uid_validity,
            uid: mailbox.next_uid,
            guid: format!("m{number}"),
            blob: Some(blob),
            size_physical_bytes: body.len() as u64,
            size_virtual_bytes: body.len() as u64,
            received_s: 1_700_000_000 + i64::try_from(number).unwrap_or(0),
            flags: self.users.random.one_of(&[0, 0, flag::SEEN]),
            modseq: mailbox.highest_modseq + 1,
            ..Message::default()
        };
        let fact = saved(&message);
        self.commit(Op::MessageSaved { message, snapshot: 0 }, Some(path), vec![fact], 0);
    }

    /// Sets flags of one message, so many times at once: as sessions do that look at the same mailbox.
    fn flags(&mut self, times: u32) {
        let Some((mailbox, _, uid, message)) = self.message() else { return self.deliver(INBOX) };
        for _ in 0..times {
            let modseq = self.state.mailboxes.get(&mailbox).map_or(0, |m| m.highest_modseq) + 1;
            let flags = u32::try_from(self.users.random.below(16)).unwrap_or(0) | (u32::from(times == 1) * flag::DRAFT);
            let keywords = if self.users.random.chance(200) { vec!["$Label1".to_owned()] } else { Vec::new() };
            let op = Op::FlagsSet { mailbox, uid, guid: message.guid.clone(), flags, keywords, modseq };
            let delay = self.later_ns();
            self.commit(op, None, vec![Fact::Flags { mailbox, uid, flags }], delay);
        }
    }

    fn expunge(&mut self) {
        let Some((mailbox, _, uid, message)) = self.message() else { return self.deliver(INBOX) };
        let delay = self.later_ns();
        let op = Op::MessageExpunged { mailbox, uid, guid: message.guid };
        self.commit(op, None, vec![Fact::Expunged { mailbox, uid }], delay);
    }

    fn copy(&mut self, moved: bool) {
        let Some((source, _, source_uid, kept)) = self.message() else { return self.deliver(INBOX) };
        let Some((guid, mailbox)) = self.mailbox().filter(|(guid, _)| *guid != source) else { return self.create() };
        let body = self.host.store.body(&self.of.name, source, source_uid).unwrap_or_default();
        let named = self.users.random.chance(500);
        let message = Message {
            mailbox: guid,
            mailbox_name: mailbox.name.clone(),
            uid_validity: mailbox.uid_validity,
            uid: mailbox.next_uid,
            guid: kept.guid.clone(),
            blob: named.then(|| BlobId(*blake3::hash(&body).as_bytes())),
            size_physical_bytes: kept.size_physical_bytes,
            size_virtual_bytes: kept.size_virtual_bytes,
            received_s: kept.received_s,
            flags: kept.flags,
            keywords: kept.keywords,
            modseq: mailbox.highest_modseq + 1,
            ..Message::default()
        };
        let fact = saved(&message);
        let made = self.commit(Op::MessageCopied { message, source, source_uid, moved }, None, vec![fact], 0);
        if moved && made {
            let op = Op::MessageExpunged { mailbox: source, uid: source_uid, guid: kept.guid };
            self.commit(op, None, vec![Fact::Expunged { mailbox: source, uid: source_uid }], 0);
        }
    }

    fn free_name(&mut self) -> Option<String> {
        let name = |n: u64| match n {
            0..4 => format!("Folder{n}"),
            _ => format!("Folder{}/Sub{n}", n % 4),
        };
        let name = name(self.users.random.below(8));
        self.find(&name).is_none().then_some(name)
    }

    fn create(&mut self) {
        match self.free_name() {
            Some(name) => drop(self.make(&name)),
            None => self.deliver(INBOX),
        }
    }

    fn delete(&mut self) {
        let Some((guid, mailbox)) = self.mailbox().filter(|(_, m)| m.name != INBOX) else { return self.create() };
        let op = Op::MailboxDeleted { guid, name: mailbox.name };
        self.commit(op, None, vec![Fact::Deleted { mailbox: guid }], 0);
    }

    fn rename(&mut self) {
        let Some((guid, mailbox)) = self.mailbox().filter(|(_, m)| m.name != INBOX) else { return self.create() };
        let old_name = mailbox.name;
        let Some(new_name) = self.free_name().filter(|new| !new.starts_with(&old_name)) else { return };
        // A real store refuses a name that has others below it, which those that move along might meet.
        if self.state.mailboxes.values().any(|m| m.name.starts_with(&format!("{new_name}/"))) {
            return;
        }
        self.commit(Op::MailboxRenamed { guid, old_name, new_name }, None, Vec::new(), 0);
    }

    fn subscribe(&mut self) {
        let name = format!("Folder{}", self.users.random.below(4));
        let on = !self.state.subscriptions.contains(&name);
        let fact = Fact::Subscribed { name: name.clone(), on };
        let op = if on { Op::Subscribed { name, snapshot: 0 } } else { Op::Unsubscribed { name } };
        self.commit(op, None, vec![fact], 0);
    }

    fn annotate(&mut self) {
        let mailbox = self.mailbox().map(|(guid, _)| guid).filter(|_| self.users.random.chance(500));
        let value = self.users.random.chance(800).then(|| self.users.random.number().to_string().into_bytes());
        let op = Op::AttributeSet { mailbox, private: true, key: "comment".into(), value, snapshot: 0 };
        self.commit(op, None, Vec::new(), 0);
    }
}

fn saved(message: &Message) -> Fact {
    Fact::Saved {
        mailbox: message.mailbox,
        uid_validity: message.uid_validity,
        uid: message.uid,
        guid: message.guid.clone(),
        flags: message.flags,
    }
}

/// Whether a session waits for an answer.
#[must_use]
pub fn waits(level: AckLevel) -> bool {
    level != AckLevel::None
}
