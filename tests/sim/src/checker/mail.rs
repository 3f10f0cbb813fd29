//! What users were told, and what must therefore be true of their mail at the end.
//!
//! Owns: the independent model of messages, flags, mailboxes and subscriptions: what was tried, and what was
//! acknowledged for good. What can hurt: a model that asks for more than was promised finds bugs that are none; one
//! that asks for less misses losses. The promise: a change that was acknowledged is there, unless a later change that
//! was at least tried took it away. Refuses: names of mailboxes, which move with their parents; replicas must agree on
//! them.

use std::collections::BTreeMap;

use understudy_types::id::MailboxGuid;

use super::view::AccountView;

/// One thing that a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    Created { mailbox: MailboxGuid },
    Deleted { mailbox: MailboxGuid },
    Saved { mailbox: MailboxGuid, uid_validity: u32, uid: u32, guid: String, flags: u32 },
    Flags { mailbox: MailboxGuid, uid: u32, flags: u32 },
    Expunged { mailbox: MailboxGuid, uid: u32 },
    Subscribed { name: String, on: bool },
}

#[derive(Debug, Default)]
struct Message {
    guid: String,
    saved: bool,
    expunge_tried: bool,
    expunged: bool,
    /// Every value that was set, in order, with its change; the last that was acknowledged.
    flags: Vec<(u64, u32)>,
    flags_acked: Option<usize>,
}

#[derive(Debug, Default)]
struct Mailbox {
    created: bool,
    delete_tried: bool,
    deleted: bool,
}

/// One account.
#[derive(Debug, Default)]
pub struct Account {
    mailboxes: BTreeMap<MailboxGuid, Mailbox>,
    messages: BTreeMap<(MailboxGuid, u32), Message>,
    identities: BTreeMap<(MailboxGuid, u32, u32), String>,
    subscriptions: BTreeMap<String, Subscription>,
}

/// What was told of one name, by number, and how many of it were acknowledged.
type Subscription = (Vec<(u64, bool)>, Option<usize>);

impl Account {
    /// A store committed it.
    pub fn tried(&mut self, number: u64, fact: &Fact) -> Result<(), String> {
        match fact {
            Fact::Created { mailbox } => drop(self.mailboxes.entry(*mailbox).or_default()),
            Fact::Deleted { mailbox } => self.mailboxes.entry(*mailbox).or_default().delete_tried = true,
            Fact::Saved { mailbox, uid_validity, uid, guid, flags } => {
                let known = self.identities.entry((*mailbox, *uid_validity, *uid)).or_insert_with(|| guid.clone());
                if known != guid {
                    return Err(format!("UID {uid} of mailbox {mailbox} was given to {known}, and now to {guid}"));
                }
                let message = self.messages.entry((*mailbox, *uid)).or_default();
                message.guid.clone_from(guid);
                message.flags.push((number, *flags));
            }
            Fact::Flags { mailbox, uid, flags } => {
                self.messages.entry((*mailbox, *uid)).or_default().flags.push((number, *flags));
            }
            Fact::Expunged { mailbox, uid } => {
                self.messages.entry((*mailbox, *uid)).or_default().expunge_tried = true;
            }
            Fact::Subscribed { name, on } => {
                self.subscriptions.entry(name.clone()).or_default().0.push((number, *on));
            }
        }
        Ok(())
    }

    /// Its user was told that it is done, for good.
    pub fn acked(&mut self, number: u64, fact: &Fact) {
        let later = |known: Option<usize>, list: &mut dyn Iterator<Item = u64>| {
            list.enumerate().find(|(_, of)| *of == number).map(|(at, _)| at).max(known)
        };
        match fact {
            Fact::Created { mailbox } => self.mailboxes.entry(*mailbox).or_default().created = true,
            Fact::Deleted { mailbox } => self.mailboxes.entry(*mailbox).or_default().deleted = true,
            Fact::Saved { mailbox, uid, .. } => {
                let message = self.messages.entry((*mailbox, *uid)).or_default();
                message.saved = true;
                message.flags_acked = later(message.flags_acked, &mut message.flags.iter().map(|(of, _)| *of));
            }
            Fact::Flags { mailbox, uid, .. } => {
                let message = self.messages.entry((*mailbox, *uid)).or_default();
                message.flags_acked = later(message.flags_acked, &mut message.flags.iter().map(|(of, _)| *of));
            }
            Fact::Expunged { mailbox, uid } => {
                self.messages.entry((*mailbox, *uid)).or_default().expunged = true;
            }
            Fact::Subscribed { name, .. } => {
                let (values, acked) = self.subscriptions.entry(name.clone()).or_default();
                *acked = later(*acked, &mut values.iter().map(|(of, _)| *of));
            }
        }
    }

    /// Whatever state a store shows, a UID names the message that it was given to.
    pub fn check_identities(&self, view: &AccountView) -> Result<(), String> {
        for (guid, mailbox) in &view.mailboxes {
            for (uid, message) in &mailbox.messages {
                match self.identities.get(&(*guid, mailbox.uid_validity, *uid)) {
                    Some(known) if *known == message.guid => {}
                    known => {
                        let known = known.map_or("nobody", |known| known.as_str());
                        return Err(format!(
                            "`{}` uid {uid} is {}, it was given to {known}",
                            mailbox.name, message.guid
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// What was acknowledged is there, and what was taken away is not.
    pub fn check(&self, view: &AccountView) -> Result<(), String> {
        self.check_identities(view)?;
        for (guid, mailbox) in &self.mailboxes {
            let there = view.mailboxes.contains_key(guid);
            if mailbox.created && !mailbox.delete_tried && !there {
                return Err(format!("mailbox {guid} was created and acknowledged, and is gone"));
            }
            if mailbox.deleted && there {
                return Err(format!("mailbox {guid} was deleted and acknowledged, and is there"));
            }
        }
        for ((guid, uid), message) in &self.messages {
            let mailbox_may_be_gone = self.mailboxes.get(guid).is_some_and(|mailbox| mailbox.delete_tried);
            let there = view.mailboxes.get(guid).and_then(|mailbox| mailbox.messages.get(uid));
            let Some(there) = there else {
                if message.saved && !message.expunge_tried && !mailbox_may_be_gone {
                    return Err(format!("{} (uid {uid}) was saved and acknowledged, and is gone", message.guid));
                }
                continue;
            };
            if message.expunged {
                return Err(format!("{} (uid {uid}) was expunged and acknowledged, and is there", message.guid));
            }
            if let Some(acked) = message.flags_acked
                && !message.flags[acked..].iter().any(|(_, flags)| *flags == there.flags)
            {
                let values: Vec<u32> = message.flags[acked..].iter().map(|(_, flags)| *flags).collect();
                let guid = &message.guid;
                return Err(format!("{guid} (uid {uid}) has flags {:#x}, not one of {values:x?}", there.flags));
            }
        }
        for (name, (values, acked)) in &self.subscriptions {
            let there = view.subscriptions.contains(name);
            if let Some(acked) = acked
                && !values[*acked..].iter().any(|(_, on)| *on == there)
            {
                return Err(format!("subscription `{name}` is {there}, and the last that was acknowledged is not"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::AccountView;
    use super::*;

    const BOX: MailboxGuid = MailboxGuid([1; 16]);

    fn saved(uid: u32, guid: &str) -> Fact {
        Fact::Saved { mailbox: BOX, uid_validity: 1, uid, guid: guid.into(), flags: 0 }
    }

    /// The checker is checked: it finds a loss, a message that came back, an older flag and a UID given twice.
    #[test]
    fn what_was_promised_is_asked_for_and_no_more() {
        let mut account = Account::default();
        let mut view = AccountView::default();
        view.mailboxes.entry(BOX).or_default().uid_validity = 1;
        account.tried(1, &saved(1, "a")).unwrap();
        assert_eq!(account.check(&view), Ok(()), "tried and not acknowledged may be gone");
        account.acked(1, &saved(1, "a"));
        assert!(account.check(&view).unwrap_err().contains("is gone"));
        account.tried(2, &Fact::Expunged { mailbox: BOX, uid: 1 }).unwrap();
        assert_eq!(account.check(&view), Ok(()), "an expunge that was only tried may have happened");
        assert!(account.tried(3, &saved(1, "b")).unwrap_err().contains("was given to a"));
    }
}
