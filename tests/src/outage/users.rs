//! One attempt of a user: a whole IMAP session, or one delivery; each through the proxy.
//!
//! Owns: the steps, and the words of the step that failed. What can hurt: a server that hangs; every step has an end.
//! Refuses: trying again.

use crate::imap::{Imap, Value};
use crate::mesh::Endpoint;
use crate::smtp::Smtp;
use crate::wire::Error;
use std::time::Duration;

/// Domain of the identities that probes give their messages.
const DOMAIN: &str = "probe.example.test";
/// Longest text that is kept of an error.
const ERROR_CHARS_MAX: usize = 120;

/// Which step failed, and what was said.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    /// The message had been sent, and no answer came: it may be there, or not.
    pub(super) fate_unknown: bool,
}

fn failed(step: &'static str) -> impl FnOnce(Error) -> Failure {
    move |error| {
        let text = format!("{step}: {error}");
        Failure { text: text.chars().take(ERROR_CHARS_MAX).collect(), fate_unknown: false }
    }
}

/// As [`failed`], for the step in which a message is handed over.
fn lost(step: &'static str) -> impl FnOnce(Error) -> Failure {
    move |error| Failure { fate_unknown: error.is_connection(), ..failed(step)(error) }
}

/// What an IMAP session is to do.
pub(super) enum Work<'a> {
    /// Add the message of this identity.
    Append(&'a str),
    /// Look for new messages.
    Fetch(Place),
}

/// From where on an INBOX has not been looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) uid_validity: u64,
    pub(super) uid: u64,
}

/// Logs in, selects INBOX, does its work, logs out. Identities of messages that are new since the place, and the place
/// behind them.
pub(super) fn imap(
    at: &Endpoint,
    account: &(String, String),
    work: &Work<'_>,
    timeout: Duration,
) -> Result<(Vec<String>, Place), Failure> {
    let mut imap = Imap::connect(&at.host, at.port, timeout).map_err(failed("connect"))?;
    imap.authenticate(&account.0, &account.1).map_err(failed("login"))?;
    let reply = imap.command("SELECT INBOX").map_err(failed("select"))?;
    let uid_validity = reply.code("UIDVALIDITY").and_then(|words| words.first()?.parse().ok()).unwrap_or(0);
    let done = match work {
        Work::Append(id) => {
            imap.append("INBOX", "", &message(id, &account.0)).map_err(lost("append"))?;
            (Vec::new(), Place::default())
        }
        Work::Fetch(from) => {
            let uid = if from.uid_validity == uid_validity { from.uid } else { 0 };
            let (ids, last) = ids(&mut imap, uid).map_err(failed("fetch"))?;
            (ids, Place { uid_validity, uid: last })
        }
    };
    imap.logout(); // what was done is done, and acknowledged
    Ok(done)
}

/// Identities of the messages of the mailbox that is selected, past this UID; and the last UID.
pub(super) fn ids(imap: &mut Imap, past: u64) -> Result<(Vec<String>, u64), Error> {
    let command = format!("UID FETCH {}:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])", past + 1);
    let reply = imap.command(&command)?;
    let (mut ids, mut last) = (Vec::new(), past);
    for parts in &reply.untagged {
        let [_, Value::Atom(word), Value::List(items)] = &parts[..] else { continue };
        let of = |name: &str| {
            let at = items.iter().position(|item| matches!(item, Value::Atom(atom) if atom.starts_with(name)))?;
            items.get(at + 1)
        };
        let (Some(uid), Some(header)) = (of("UID").and_then(Value::number), of("BODY[").and_then(Value::text)) else {
            continue;
        };
        // `N:*` names the last message also when it is before N.
        if word != "FETCH" || uid <= past {
            continue;
        }
        last = last.max(uid);
        let id = header.split_once('<').and_then(|(_, rest)| rest.split_once('@'));
        ids.extend(id.filter(|(_, rest)| rest.starts_with(DOMAIN)).map(|(id, _)| id.to_owned()));
    }
    Ok((ids, last))
}

/// Delivers the message of this identity.
pub(super) fn smtp(at: &Endpoint, account: &str, id: &str, timeout: Duration) -> Result<(), Failure> {
    let mut smtp = Smtp::connect(&at.host, at.port, timeout).map_err(failed("connect"))?;
    // A sender of its own, as mails of different people have: Postfix remembers for half a minute where the last
    // recipient was, together with the sender (seen in its `resolve_clnt`).
    smtp.envelope(&format!("{id}@{DOMAIN}"), account).map_err(failed("envelope"))?;
    smtp.data(&message(id, account)).map_err(lost("data"))?;
    smtp.quit();
    Ok(())
}

fn message(id: &str, account: &str) -> Vec<u8> {
    let head = format!("From: <{id}@{DOMAIN}>\r\nTo: <{account}>\r\nMessage-ID: <{id}@{DOMAIN}>\r\nSubject: {id}\r\n");
    format!("{head}\r\nA probe.\r\n").into_bytes()
}
