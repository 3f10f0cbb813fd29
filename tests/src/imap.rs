//! A blocking IMAP client: commands, literals, and the whole state of an account as its user sees it.
//!
//! Owns: the grammar of answers ([`Value`]) and [`Account`], the state that two nodes are compared by. What can hurt: a
//! connection that ends before the tagged answer; the caller learns that the fate of the command is not known.
//! Refuses: repeating a command, and hiding a NO.

use crate::wire::{Error, Wire};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Lists in an answer deeper than this are refused.
const DEPTH_MAX: usize = 32;

/// One part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nil,
    /// A bare word: number, flag, keyword, response code.
    Atom(String),
    /// A quoted string or a literal.
    Text(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    /// Text of an atom or string.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Atom(text) => Some(text.clone()),
            Self::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Nil | Self::List(_) => None,
        }
    }

    /// A number.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.text()?.parse().ok()
    }

    /// Elements of a list; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Self::List(items) = self { items } else { &[] }
    }
}

/// What a command was answered with.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The text after OK.
    pub text: String,
    /// Untagged answers, each split into its parts.
    pub untagged: Vec<Vec<Value>>,
}

impl Reply {
    /// The words of the response code `[NAME …]`, from the tagged or an untagged answer.
    #[must_use]
    pub fn code(&self, name: &str) -> Option<Vec<String>> {
        let untagged = self.untagged.iter().map(|parts| {
            let words = parts.iter().filter_map(Value::text);
            words.collect::<Vec<_>>().join(" ")
        });
        untagged.chain([self.text.clone()]).find_map(|text| {
            let (_, rest) = text.split_once(&format!("[{name} "))?;
            Some(rest.split(']').next()?.split_whitespace().map(str::to_owned).collect())
        })
    }
}

/// One message as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub uid: u64,
    /// Without `\Recent`, which belongs to a session.
    pub flags: BTreeSet<String>,
    pub internal_date: String,
    pub body: Vec<u8>,
}

/// One mailbox as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    pub uid_validity: u64,
    pub uid_next: u64,
    pub messages: Vec<Message>,
}

/// One account as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Account {
    /// By name, as LIST says it. `None` where the mailbox cannot be selected.
    pub mailboxes: BTreeMap<String, Option<Mailbox>>,
    pub subscribed: BTreeSet<String>,
}

impl Account {
    /// The first difference in words, or `None` when the two are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let names: BTreeSet<&String> = self.mailboxes.keys().chain(other.mailboxes.keys()).collect();
        for name in names {
            let (one, two) = match (self.mailboxes.get(name), other.mailboxes.get(name)) {
                (Some(Some(one)), Some(Some(two))) => (one, two),
                (one, two) if one == two => continue,
                (None, _) => return Some(format!("`{name}` is only on the second")),
                (_, None) => return Some(format!("`{name}` is only on the first")),
                _ => return Some(format!("`{name}` can be selected only on one")),
            };
            if (one.uid_validity, one.uid_next) != (two.uid_validity, two.uid_next) {
                let (a, b) = ((one.uid_validity, one.uid_next), (two.uid_validity, two.uid_next));
                return Some(format!("`{name}`: UIDVALIDITY and UIDNEXT {a:?}, {b:?}"));
            }
            let uids = |m: &Mailbox| m.messages.iter().map(|m| m.uid).collect::<Vec<_>>();
            if uids(one) != uids(two) {
                return Some(format!("`{name}`: UIDs {:?}, {:?}", uids(one), uids(two)));
            }
            if let Some((a, b)) = one.messages.iter().zip(&two.messages).find(|(a, b)| a != b) {
                let of = |m: &Message| format!("{:?} `{}` {} bytes", m.flags, m.internal_date, m.body.len());
                return Some(format!("`{name}` UID {}: {}, {}", a.uid, of(a), of(b)));
            }
        }
        if self.subscribed != other.subscribed {
            return Some(format!("subscriptions {:?}, {:?}", self.subscribed, other.subscribed));
        }
        None
    }

    /// How many messages it holds.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.mailboxes.values().flatten().map(|m| m.messages.len()).sum()
    }
}

/// One session.
#[derive(Debug)]
pub struct Imap {
    wire: Wire,
    tag: u32,
}

/// `name` as an IMAP quoted string.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Imap {
    /// Connects; every wait ends after `timeout`.
    ///
    /// # Errors
    /// When nobody answers, or not with OK.
    pub fn connect(host: &str, port: u16, timeout: Duration) -> Result<Self, Error> {
        let mut wire = Wire::connect(host, port, timeout)?;
        let greeting = String::from_utf8_lossy(&wire.line()?).into_owned();
        if !greeting.starts_with("* OK") {
            return Err(Error::Refused(greeting));
        }
        Ok(Self { wire, tag: 0 })
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Self::connect`] and [`Self::command`].
    pub fn login(host: &str, port: u16, user: &str, password: &str, timeout: Duration) -> Result<Self, Error> {
        let mut client = Self::connect(host, port, timeout)?;
        client.authenticate(user, password)?;
        Ok(client)
    }

    /// Logs in.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<Reply, Error> {
        self.command(&format!("LOGIN {} {}", quoted(user), quoted(password)))
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Refused`] on NO and BAD, [`Error::Connection`] when the connection ends first.
    pub fn command(&mut self, command: &str) -> Result<Reply, Error> {
        let tag = self.next_tag();
        self.wire.send(format!("{tag} {command}\r\n").as_bytes())?;
        self.reply(&tag)
    }

    /// Adds a message; its UIDVALIDITY and UID. `rest` stands before the message: flags and date, or nothing.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn append(&mut self, mailbox: &str, rest: &str, message: &[u8]) -> Result<(u64, u64), Error> {
        let tag = self.next_tag();
        let rest = if rest.is_empty() { String::new() } else { format!("{rest} ") };
        let head = format!("{tag} APPEND {} {rest}{{{}+}}\r\n", quoted(mailbox), message.len());
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(message);
        bytes.extend_from_slice(b"\r\n");
        self.wire.send(&bytes)?;
        let reply = self.reply(&tag)?;
        let code = reply.code("APPENDUID").unwrap_or_default();
        match code.iter().map(|w| w.parse().ok()).collect::<Vec<_>>()[..] {
            [Some(validity), Some(uid)] => Ok((validity, uid)),
            _ => Err(Error::Protocol(format!("no APPENDUID: {}", reply.text))),
        }
    }

    /// As [`Self::append`], with `between` done after half of the message has been sent: by then the server has the
    /// mailbox open.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn append_in_two(&mut self, mailbox: &str, message: &[u8], between: impl FnOnce()) -> Result<Reply, Error> {
        let tag = self.next_tag();
        let head = format!("{tag} APPEND {} {{{}}}\r\n", quoted(mailbox), message.len());
        self.wire.send(head.as_bytes())?;
        let answer = self.wire.line()?;
        if !answer.starts_with(b"+") {
            return Err(Error::Refused(String::from_utf8_lossy(&answer).into_owned()));
        }
        let (first, rest) = message.split_at(message.len() / 2);
        self.wire.send(first)?;
        between();
        self.wire.send(rest)?;
        self.wire.send(b"\r\n")?;
        self.reply(&tag)
    }

    /// Names of all mailboxes, and whether each can be selected.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn list(&mut self) -> Result<Vec<(String, bool)>, Error> {
        let reply = self.command("LIST \"\" \"*\"")?;
        Ok(reply.untagged.iter().filter_map(|parts| listed(parts, "LIST")).collect())
    }

    /// Names of all subscriptions.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn subscribed(&mut self) -> Result<BTreeSet<String>, Error> {
        let reply = self.command("LSUB \"\" \"*\"")?;
        let names = reply.untagged.iter().filter_map(|parts| listed(parts, "LSUB"));
        Ok(names.filter(|(_, selectable)| *selectable).map(|(name, _)| name).collect())
    }

    /// All messages of the mailbox that is selected.
    ///
    /// # Errors
    /// As [`Self::command`], or when an answer lacks what was asked for.
    pub fn messages(&mut self) -> Result<Vec<Message>, Error> {
        let reply = self.command("UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])")?;
        let fetched = reply.untagged.iter().filter_map(|parts| match &parts[..] {
            [_, Value::Atom(word), Value::List(items)] if word == "FETCH" => Some(message(items)),
            _ => None,
        });
        // A message may be told of twice (a flag change meanwhile); the later answer may be only its flags.
        let mut messages: BTreeMap<u64, Message> = BTreeMap::new();
        for found in fetched.flatten() {
            messages.insert(found.uid, found);
        }
        Ok(messages.into_values().collect())
    }

    /// Opens `mailbox` without changing anything, and reads all of it.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn mailbox(&mut self, mailbox: &str) -> Result<Mailbox, Error> {
        let reply = self.command(&format!("EXAMINE {}", quoted(mailbox)))?;
        let number = |name: &str| {
            let code = reply.code(name).and_then(|words| words.first()?.parse().ok());
            code.ok_or_else(|| Error::Protocol(format!("EXAMINE without {name}")))
        };
        let (uid_validity, uid_next) = (number("UIDVALIDITY")?, number("UIDNEXT")?);
        let messages = self.messages()?;
        Ok(Mailbox { uid_validity, uid_next, messages })
    }

    /// Reads the whole account without changing anything.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub fn account(&mut self) -> Result<Account, Error> {
        let mut account = Account { subscribed: self.subscribed()?, ..Account::default() };
        for (name, selectable) in self.list()? {
            let mailbox = match selectable.then(|| self.mailbox(&name)) {
                // Dovecot's list goes on naming a mailbox that was deleted while it had children, on whichever node.
                Some(Err(Error::Refused(why))) if why.contains("doesn't exist") => continue,
                other => other.transpose()?,
            };
            account.mailboxes.insert(name, mailbox);
        }
        // What only holds other mailboxes is there because of them.
        let names: Vec<String> = account.mailboxes.keys().cloned().collect();
        let holds = |name: &str| names.iter().any(|n| n.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
        account.mailboxes.retain(|name, mailbox| mailbox.is_some() || !holds(name));
        Ok(account)
    }

    /// Ends the session.
    pub fn logout(mut self) {
        let _ = self.command("LOGOUT");
    }

    fn next_tag(&mut self) -> String {
        self.tag += 1;
        format!("a{}", self.tag)
    }

    fn reply(&mut self, tag: &str) -> Result<Reply, Error> {
        let mut reply = Reply::default();
        loop {
            let line = self.line_with_literals()?;
            let text = String::from_utf8_lossy(&line).into_owned();
            if let Some(rest) = text.strip_prefix(tag).and_then(|r| r.strip_prefix(' ')) {
                return match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("OK", more) => {
                        more.clone_into(&mut reply.text);
                        Ok(reply)
                    }
                    ("NO" | "BAD", _) => Err(Error::Refused(rest.to_owned())),
                    _ => Err(Error::Protocol(text)),
                };
            }
            if text.starts_with("* BYE") && !text.to_lowercase().contains("logging out") {
                return Err(Error::Connection(text));
            }
            if let Some(rest) = line.strip_prefix(b"* ") {
                reply.untagged.push(parse(rest)?);
            }
        }
    }

    /// A line; where it announces a literal, with the literal and what follows.
    fn line_with_literals(&mut self) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        loop {
            let line = self.wire.line()?;
            let literal = literal_at_end(&line);
            all.extend_from_slice(&line);
            let Some(len) = literal else { return Ok(all) };
            all.extend_from_slice(b"\r\n");
            all.extend_from_slice(&self.wire.literal(len)?);
        }
    }
}

fn literal_at_end(line: &[u8]) -> Option<usize> {
    let inner = line.strip_suffix(b"}")?;
    let open = inner.iter().rposition(|b| *b == b'{')?;
    std::str::from_utf8(&inner[open + 1..]).ok()?.parse().ok()
}

fn listed(parts: &[Value], command: &str) -> Option<(String, bool)> {
    match parts {
        [Value::Atom(word), flags, _, name, ..] if word == command => {
            let closed = |f: &Value| f.text().is_some_and(|t| t.eq_ignore_ascii_case("\\Noselect"));
            Some((name.text()?, !flags.items().iter().any(closed)))
        }
        _ => None,
    }
}

fn message(items: &[Value]) -> Option<Message> {
    let get = |name: &str| {
        let at = items.iter().step_by(2).position(|i| matches!(i, Value::Atom(a) if a.eq_ignore_ascii_case(name)))?;
        items.get(at * 2 + 1)
    };
    let flags = get("FLAGS")?.items().iter().filter_map(Value::text).filter(|f| f != "\\Recent").collect();
    let Value::Text(body) = get("BODY[]")? else { return None };
    Some(Message { uid: get("UID")?.number()?, flags, internal_date: get("INTERNALDATE")?.text()?, body: body.clone() })
}

/// Splits one untagged answer into its parts.
///
/// # Errors
/// [`Error::Protocol`] when it does not follow the grammar.
pub fn parse(bytes: &[u8]) -> Result<Vec<Value>, Error> {
    let mut at = 0;
    let values = list(bytes, &mut at, None, 0)?;
    Ok(values)
}

fn list(bytes: &[u8], at: &mut usize, end: Option<u8>, depth: usize) -> Result<Vec<Value>, Error> {
    let wrong = |what: &str| Error::Protocol(format!("{what}: {}", String::from_utf8_lossy(bytes)));
    if depth > DEPTH_MAX {
        return Err(wrong("too deep"));
    }
    let mut values = Vec::new();
    loop {
        let Some(byte) = bytes.get(*at).copied() else {
            return if end.is_none() { Ok(values) } else { Err(wrong("an open list")) };
        };
        match byte {
            b' ' => *at += 1,
            b')' if end == Some(b')') => {
                *at += 1;
                return Ok(values);
            }
            b'(' => {
                *at += 1;
                values.push(Value::List(list(bytes, at, Some(b')'), depth + 1)?));
            }
            b'"' => values.push(Value::Text(string(bytes, at).ok_or_else(|| wrong("an open string"))?)),
            b'{' => values.push(Value::Text(literal(bytes, at).ok_or_else(|| wrong("a broken literal"))?)),
            _ => {
                let word = atom(bytes, at);
                values.push(if word.eq_ignore_ascii_case("NIL") { Value::Nil } else { Value::Atom(word) });
            }
        }
    }
}

/// A bare word; brackets in it (`BODY[HEADER.FIELDS (X)]`, `[APPENDUID 1 2]`) keep what they hold.
fn atom(bytes: &[u8], at: &mut usize) -> String {
    let start = *at;
    let mut open = 0_u32;
    while let Some(byte) = bytes.get(*at) {
        match byte {
            b'[' => open += 1,
            b']' => open = open.saturating_sub(1),
            b' ' | b'(' | b')' | b'"' if open == 0 && *at > start => break,
            _ => {}
        }
        *at += 1;
    }
    String::from_utf8_lossy(&bytes[start..*at]).into_owned()
}

fn string(bytes: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    *at += 1;
    loop {
        match *bytes.get(*at)? {
            b'"' => {
                *at += 1;
                return Some(text);
            }
            b'\\' => {
                text.push(*bytes.get(*at + 1)?);
                *at += 2;
            }
            byte => {
                text.push(byte);
                *at += 1;
            }
        }
    }
}

fn literal(bytes: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    let rest = bytes.get(*at..)?;
    let close = rest.iter().position(|b| *b == b'}')?;
    let len: usize = std::str::from_utf8(rest.get(1..close)?).ok()?.parse().ok()?;
    let start = close + 3; // past "}\r\n"
    let text = rest.get(start..start.checked_add(len)?)?.to_vec();
    *at += start + len;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom_of(text: &str) -> Value {
        Value::Atom(text.to_owned())
    }

    #[test]
    fn answers_are_split_into_their_parts() {
        let got = parse(b"3 FETCH (UID 7 FLAGS (\\Seen $x) BODY[] {5}\r\na)\"(b X NIL)").expect("parses");
        assert_eq!(got[..2], [atom_of("3"), atom_of("FETCH")]);
        let items = got[2].items();
        assert_eq!(items[1].number(), Some(7));
        assert_eq!(items[3].items(), [atom_of("\\Seen"), atom_of("$x")]);
        assert_eq!(items[5], Value::Text(b"a)\"(b".to_vec()));
        assert_eq!(items[7], Value::Nil);
    }

    #[test]
    fn names_are_unquoted() {
        let got = parse(br#"LIST (\HasNoChildren) "/" "a \"b\" c""#).expect("parses");
        assert_eq!(listed(&got, "LIST"), Some((r#"a "b" c"#.to_owned(), true)));
    }

    #[test]
    fn broken_answers_are_errors() {
        for text in ["(a", "\"a", "{9}\r\nshort", "{x}\r\n"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse("(".repeat(1000).as_bytes()).is_err());
    }

    #[test]
    fn differences_are_found_and_named() {
        let message = |uid, flag: &str| Message {
            uid,
            flags: BTreeSet::from([flag.to_owned()]),
            internal_date: "d".to_owned(),
            body: b"x".to_vec(),
        };
        let account = |messages| Account {
            mailboxes: BTreeMap::from([("INBOX".to_owned(), Some(Mailbox { uid_validity: 1, uid_next: 9, messages }))]),
            subscribed: BTreeSet::new(),
        };
        let one = account(vec![message(1, "\\Seen")]);
        assert_eq!(one.difference(&one), None);
        assert!(one.difference(&account(vec![message(1, "\\Deleted")])).is_some_and(|d| d.contains("UID 1")));
        assert!(one.difference(&account(vec![message(2, "\\Seen")])).is_some_and(|d| d.contains("UIDs")));
        assert!(one.difference(&Account::default()).is_some_and(|d| d.contains("only on the first")));
    }

    #[test]
    fn codes_are_found_where_they_stand() {
        let untagged = vec![parse(b"OK [UIDVALIDITY 17] UIDs valid").expect("parses")];
        let reply = Reply { text: "[APPENDUID 17 3] done".to_owned(), untagged };
        assert_eq!(reply.code("UIDVALIDITY"), Some(vec!["17".to_owned()]));
        assert_eq!(reply.code("APPENDUID"), Some(vec!["17".to_owned(), "3".to_owned()]));
    }
}
