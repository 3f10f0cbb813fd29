//! What a replica would have after the operations that were seen, to be compared with what the store has.
//!
//! Owns: the simplest replay there can be, in memory, and the store's own account of itself as `doveadm` tells it.
//! What can hurt: nothing is forgiven: an operation that appears twice, or on a message that is not there, is an
//! error. Refuses: being quick.

use std::collections::{BTreeMap, BTreeSet};
use understudy_tests::dovecot::Dovecot;
use understudy_types::op::{Message, Op, flag};

/// One message, as far as both sides tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) guid: String,
    /// System flags and keywords as IMAP writes them.
    pub(crate) flags: BTreeSet<String>,
    pub(crate) modseq: u64,
    pub(crate) received_s: i64,
    pub(crate) size_physical: u64,
    pub(crate) size_virtual: u64,
}

/// One mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Box {
    pub(crate) name: String,
    pub(crate) uid_validity: u32,
    pub(crate) messages: BTreeMap<u32, State>,
}

/// One account: mailboxes by GUID.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) mailboxes: BTreeMap<String, Box>,
    pub(crate) subscribed: BTreeSet<String>,
    /// Changes of messages of mailboxes that had been deleted before: they were published after the commit, which
    /// has no lock.
    pub(crate) late: usize,
    deleted: BTreeSet<String>,
}

fn flags_of(bits: u32, keywords: &[String]) -> BTreeSet<String> {
    let named = [
        (flag::ANSWERED, "\\Answered"),
        (flag::FLAGGED, "\\Flagged"),
        (flag::DELETED, "\\Deleted"),
        (flag::SEEN, "\\Seen"),
        (flag::DRAFT, "\\Draft"),
    ];
    let system = named.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| (*name).to_owned());
    system.chain(keywords.iter().cloned()).collect()
}

impl Account {
    /// What the operations make.
    ///
    /// # Panics
    /// On one that does not fit what was before.
    pub(crate) fn of(ops: &[Op]) -> Self {
        let mut this = Self::default();
        for op in ops {
            this.apply(op);
        }
        // A mailbox that has only been named by its messages keeps the name that they gave.
        this
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::MessageExpunged { mailbox, .. } | Op::FlagsSet { mailbox, .. }
                if self.deleted.contains(&mailbox.to_string()) =>
            {
                self.late += 1;
            }
            Op::MailboxCreated { mailbox, .. } | Op::MailboxUpdated { mailbox, .. } => {
                if mailbox.directory {
                    return;
                }
                let known = self.mailboxes.entry(mailbox.guid.to_string()).or_insert_with(|| Box {
                    name: mailbox.name.clone(),
                    uid_validity: 0,
                    messages: BTreeMap::new(),
                });
                if mailbox.uid_validity != 0 {
                    known.uid_validity = mailbox.uid_validity;
                }
            }
            Op::MailboxDeleted { guid, .. } => {
                self.mailboxes.remove(&guid.to_string());
                self.deleted.insert(guid.to_string());
            }
            Op::MailboxRenamed { guid, old_name, new_name, .. } => {
                // A mailbox is addressed by its identity, and may stand there already; a directory has only names.
                let from = self.mailboxes.get(&guid.to_string()).map_or(old_name, |known| &known.name).clone();
                self.rename(&from, new_name);
            }
            Op::Subscribed { name, .. } => {
                assert!(self.subscribed.insert(name.clone()), "subscribed twice: {name}");
            }
            Op::Unsubscribed { name } => {
                assert!(self.subscribed.remove(name), "was not subscribed: {name}");
            }
            Op::MessageSaved { message, .. } | Op::MessageCopied { message, .. } => self.add(message),
            Op::MessageExpunged { mailbox, uid, .. } => {
                // Two sessions may expunge the same message.
                let known = self.mailboxes.get_mut(&mailbox.to_string()).expect("an expunge of a known mailbox");
                known.messages.remove(uid);
            }
            Op::FlagsSet { mailbox, uid, flags, keywords, modseq, .. } => {
                let known = self.mailboxes.get_mut(&mailbox.to_string()).expect("flags of a known mailbox");
                if let Some(state) = known.messages.get_mut(uid)
                    && *modseq >= state.modseq
                {
                    state.flags = flags_of(*flags, keywords);
                    state.modseq = *modseq;
                }
            }
            _ => {}
        }
    }

    /// Moves what has this name or stands below it. What finds its new name in use stays.
    fn rename(&mut self, from: &str, to: &str) {
        let mut used: BTreeSet<String> = self.mailboxes.values().map(|m| m.name.clone()).collect();
        let mut moving: Vec<&mut Box> =
            self.mailboxes.values_mut().filter(|m| below(&m.name, from).is_some()).collect();
        moving.sort_by(|a, b| a.name.cmp(&b.name));
        for known in moving {
            let name = format!("{to}{}", below(&known.name, from).unwrap_or_default());
            if used.insert(name.clone()) {
                used.remove(&known.name);
                known.name = name;
            }
        }
    }

    fn add(&mut self, message: &Message) {
        let known = self.mailboxes.entry(message.mailbox.to_string()).or_insert_with(|| Box {
            name: message.mailbox_name.clone(),
            uid_validity: 0,
            messages: BTreeMap::new(),
        });
        assert_ne!(message.uid_validity, 0, "a save tells the UIDVALIDITY");
        known.uid_validity = message.uid_validity;
        let state = State {
            guid: message.guid.clone(),
            flags: flags_of(message.flags, &message.keywords),
            modseq: message.modseq,
            received_s: message.received_s,
            size_physical: message.size_physical_bytes,
            size_virtual: message.size_virtual_bytes,
        };
        let before = known.messages.insert(message.uid, state);
        assert!(before.is_none(), "UID {} of {} was published twice", message.uid, known.name);
    }

    /// What the store has.
    ///
    /// # Panics
    /// When `doveadm` fails.
    pub(crate) fn stored(dovecot: &Dovecot, user: &str) -> Self {
        let mut this = Self::default();
        let status = there(dovecot, &["mailbox", "status", "-u", user, "guid uidvalidity", "*"]);
        for row in table(&status) {
            let name = row["mailbox"].clone();
            let uid_validity = row["uidvalidity"].parse().expect("a number");
            this.mailboxes.insert(row["guid"].clone(), Box { name, uid_validity, messages: BTreeMap::new() });
        }
        let fields = "mailbox-guid uid guid flags modseq size.physical size.virtual date.received.unixtime";
        let fetched = there(dovecot, &["fetch", "-u", user, fields, "mailbox", "*"]);
        for row in table(&fetched) {
            let flags = row["flags"].split(' ').filter(|f| !f.is_empty() && *f != "\\Recent").map(str::to_owned);
            let number = |name: &str| row[name].parse::<u64>().expect("a number");
            let state = State {
                guid: row["guid"].clone(),
                flags: flags.collect(),
                modseq: number("modseq"),
                received_s: row["date.received.unixtime"].parse().expect("a number"),
                size_physical: number("size.physical"),
                size_virtual: number("size.virtual"),
            };
            let known = this.mailboxes.get_mut(&row["mailbox-guid"]).expect("a mailbox with that GUID");
            known.messages.insert(row["uid"].parse().expect("a number"), state);
        }
        let subscribed = dovecot.look(&["mailbox", "list", "-s", "-u", user]).expect("list");
        this.subscribed = subscribed.lines().skip(1).map(str::to_owned).collect();
        this
    }

    /// Takes the store's modseq where it is lower. Of several messages with keywords that one commit added, each is
    /// published with the highest modseq of the commit.
    pub(crate) fn lower_modseqs(&mut self, stored: &Self) {
        for (guid, known) in &mut self.mailboxes {
            for (uid, state) in &mut known.messages {
                let theirs = stored.mailboxes.get(guid).and_then(|m| m.messages.get(uid)).map(|m| m.modseq);
                state.modseq = theirs.map_or(state.modseq, |theirs| theirs.min(state.modseq));
            }
        }
    }

    /// The first difference in words.
    pub(crate) fn difference(&self, stored: &Self) -> Option<String> {
        let guids: BTreeSet<&String> = self.mailboxes.keys().chain(stored.mailboxes.keys()).collect();
        for guid in guids {
            match (self.mailboxes.get(guid), stored.mailboxes.get(guid)) {
                (Some(one), Some(two)) => {
                    let uids: BTreeSet<&u32> = one.messages.keys().chain(two.messages.keys()).collect();
                    for uid in uids {
                        let (a, b) = (one.messages.get(uid), two.messages.get(uid));
                        if a != b {
                            return Some(format!("{} UID {uid}: published {a:#?}, stored {b:#?}", two.name));
                        }
                    }
                    // A Maildir gets its UIDVALIDITY when it is first looked into, here by `doveadm`.
                    let known = one.uid_validity != 0 || !two.messages.is_empty();
                    if one.name != two.name || (known && one.uid_validity != two.uid_validity) {
                        let (a, b) = ((&one.name, one.uid_validity), (&two.name, two.uid_validity));
                        return Some(format!("{guid}: published {a:?}, stored {b:?}"));
                    }
                }
                (one, two) => return Some(format!("{guid}: published {one:?}, stored {two:?}")),
            }
        }
        (self.subscribed != stored.subscribed)
            .then(|| format!("subscriptions: published {:?}, stored {:?}", self.subscribed, stored.subscribed))
    }
}

/// What follows the name of a mailbox in the name of one below it; nothing for the mailbox itself.
fn below<'a>(name: &'a str, above: &str) -> Option<&'a str> {
    name.strip_prefix(above).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What `doveadm` says of the mailboxes that are there; it may name one of which only others below it are left. An
/// index that sessions have left damaged is repaired by the look.
fn there(dovecot: &Dovecot, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new("doveadm");
    command.arg("-c").arg(dovecot.dir().join("conf")).args(["-o", "mail_plugins=", "-f", "tab"]);
    // The folders themselves: the index of the list may name what is gone, and lack what is there.
    command.args(["-o", "mailbox_list_index=no"]).args(arguments);
    let output = command.output().expect("doveadm runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    if !errors.is_empty() {
        println!("{errors}");
    }
    let bad = errors.lines().find(|line| line.contains("Error: ") && !line.contains("Mailbox doesn't exist: "));
    assert!(bad.is_none(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split('\t').collect();
    lines.map(|l| names.iter().map(|n| (*n).to_owned()).zip(l.split('\t').map(str::to_owned)).collect()).collect()
}
