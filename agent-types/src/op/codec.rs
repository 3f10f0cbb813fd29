//! Encoder and decoder of operations: head, then fields of tag, length and bytes, in any order.
//!
//! Repeated fields are legal only for keywords; of any other tag the first counts. Numbers are little-endian
//! and exactly 4 or 8 bytes. Text is UTF-8 without NUL, because it ends up in C strings of the store.

use alloc::string::String;
use alloc::vec::Vec;

use super::{
    ATTRIBUTE_BYTES_MAX, FIELD_HEAD_BYTES, KEYWORDS_MAX, MAILBOX_NAME_BYTES_MAX, Mailbox, Message, OP_BYTES_MAX,
    OP_HEAD_BYTES, Op, OpError, flag, kind, tag,
};
use crate::id::{BlobId, MailboxGuid};

/// Largest message GUID, keyword, attribute key or reason, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Builds an operation's bytes.
#[derive(Debug)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Starts an operation of this kind.
    #[must_use]
    pub fn new(kind: u16) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        Self(bytes)
    }

    /// Appends a field.
    pub fn bytes(&mut self, tag: u16, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(&tag.to_le_bytes());
        self.0.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend_from_slice(value);
        self
    }

    /// Appends a text field; empty text is left out.
    pub fn text(&mut self, tag: u16, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.bytes(tag, value.as_bytes()) }
    }

    /// Appends a 32-bit field; 0 is left out.
    pub fn u32(&mut self, tag: u16, value: u32) -> &mut Self {
        if value == 0 { self } else { self.bytes(tag, &value.to_le_bytes()) }
    }

    /// Appends a 64-bit field; 0 is left out.
    pub fn u64(&mut self, tag: u16, value: u64) -> &mut Self {
        if value == 0 { self } else { self.bytes(tag, &value.to_le_bytes()) }
    }

    /// Fills in the length and gives the bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let fields = u32::try_from(self.0.len() - OP_HEAD_BYTES).unwrap_or(u32::MAX);
        self.0[4..8].copy_from_slice(&fields.to_le_bytes());
        self.0
    }
}

/// One field as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawField<'a> {
    pub tag: u16,
    /// Offset of the field in the operation's bytes.
    pub at: usize,
    pub value: &'a [u8],
}

/// Walks the fields of an operation whose head has been checked.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Checks the head of an operation and gives its kind and fields.
    ///
    /// # Errors
    /// When the bytes are too long, cut short, or say another length than they have.
    pub fn of(bytes: &'a [u8]) -> Result<(u16, Self), OpError> {
        if bytes.len() > OP_BYTES_MAX {
            return Err(OpError::TooLong(bytes.len()));
        }
        let Some((head, fields)) = bytes.split_first_chunk::<OP_HEAD_BYTES>() else {
            return Err(OpError::Short { at: 0, have: bytes.len(), need: OP_HEAD_BYTES });
        };
        let flags = u16::from_le_bytes([head[2], head[3]]);
        if flags != 0 {
            return Err(OpError::Flags(flags));
        }
        let said = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if said != fields.len() {
            return Err(OpError::Length { said, have: fields.len() });
        }
        Ok((u16::from_le_bytes([head[0], head[1]]), Self { bytes, at: OP_HEAD_BYTES }))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<RawField<'a>, OpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = self.bytes.get(at..)?;
        if rest.is_empty() {
            return None;
        }
        let Some((head, after)) = rest.split_first_chunk::<FIELD_HEAD_BYTES>() else {
            self.at = self.bytes.len();
            return Some(Err(OpError::Short { at, have: rest.len(), need: FIELD_HEAD_BYTES }));
        };
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let len = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let Some(value) = after.get(..len) else {
            self.at = self.bytes.len();
            return Some(Err(OpError::Short { at, have: after.len(), need: len }));
        };
        self.at = at + FIELD_HEAD_BYTES + len;
        Some(Ok(RawField { tag, at, value }))
    }
}

/// All known fields of one operation, gathered.
#[derive(Default)]
struct Gathered<'a> {
    first: [Option<RawField<'a>>; 32],
    keywords: Vec<String>,
}

fn text(field: RawField<'_>, limit: usize) -> Result<String, OpError> {
    if field.value.len() > limit {
        return Err(OpError::FieldLength { tag: field.tag, at: field.at, len: field.value.len() });
    }
    match core::str::from_utf8(field.value) {
        Ok(value) if !value.contains('\0') => Ok(String::from(value)),
        _ => Err(OpError::Text { tag: field.tag, at: field.at }),
    }
}

fn array<const N: usize>(field: RawField<'_>) -> Result<[u8; N], OpError> {
    field.value.try_into().map_err(|_| OpError::FieldLength { tag: field.tag, at: field.at, len: field.value.len() })
}

impl<'a> Gathered<'a> {
    fn of(fields: Fields<'a>) -> Result<Self, OpError> {
        let mut gathered = Self::default();
        for field in fields {
            let field = field?;
            if field.tag == tag::KEYWORD {
                if gathered.keywords.len() >= KEYWORDS_MAX {
                    return Err(OpError::Range { tag: field.tag, at: field.at });
                }
                gathered.keywords.push(text(field, TEXT_BYTES_MAX)?);
            } else if let Some(slot) = gathered.first.get_mut(usize::from(field.tag)) {
                slot.get_or_insert(field);
            }
        }
        gathered.keywords.sort_unstable();
        gathered.keywords.dedup();
        Ok(gathered)
    }

    fn get(&self, tag: u16) -> Option<RawField<'a>> {
        self.first.get(usize::from(tag)).copied().flatten()
    }

    fn need(&self, kind: u16, tag: u16) -> Result<RawField<'a>, OpError> {
        self.get(tag).ok_or(OpError::Missing { kind, tag })
    }

    fn u32(&self, tag: u16) -> Result<u32, OpError> {
        self.get(tag).map_or(Ok(0), |field| array(field).map(u32::from_le_bytes))
    }

    fn u64(&self, tag: u16) -> Result<u64, OpError> {
        self.get(tag).map_or(Ok(0), |field| array(field).map(u64::from_le_bytes))
    }

    fn text(&self, tag: u16, limit: usize) -> Result<String, OpError> {
        self.get(tag).map_or(Ok(String::new()), |field| text(field, limit))
    }

    fn guid(&self, kind: u16, tag: u16) -> Result<MailboxGuid, OpError> {
        array(self.need(kind, tag)?).map(MailboxGuid)
    }

    /// A UID that must be there and must not be 0.
    fn uid(&self, kind: u16, tag: u16) -> Result<u32, OpError> {
        let field = self.need(kind, tag)?;
        match array(field).map(u32::from_le_bytes)? {
            0 => Err(OpError::Range { tag, at: field.at }),
            uid => Ok(uid),
        }
    }

    fn flags(&self) -> Result<u32, OpError> {
        let flags = self.u32(tag::FLAGS)?;
        match self.get(tag::FLAGS) {
            Some(field) if flags & !flag::ALL != 0 => Err(OpError::Range { tag: tag::FLAGS, at: field.at }),
            _ => Ok(flags),
        }
    }

    fn name(&self, kind: u16, tag: u16) -> Result<String, OpError> {
        text(self.need(kind, tag)?, MAILBOX_NAME_BYTES_MAX)
    }

    fn mailbox(&self, kind: u16) -> Result<Mailbox, OpError> {
        Ok(Mailbox {
            guid: match self.get(tag::MAILBOX_GUID) {
                Some(field) => MailboxGuid(array(field)?),
                None => MailboxGuid::default(),
            },
            name: self.name(kind, tag::MAILBOX_NAME)?,
            uid_validity: self.u32(tag::UID_VALIDITY)?,
            next_uid: self.u32(tag::NEXT_UID)?,
            highest_modseq: self.u64(tag::HIGHEST_MODSEQ)?,
            directory: self.u32(tag::DIRECTORY)? != 0,
        })
    }

    fn message(&mut self, kind: u16) -> Result<Message, OpError> {
        Ok(Message {
            mailbox: self.guid(kind, tag::MAILBOX_GUID)?,
            mailbox_name: self.text(tag::MAILBOX_NAME, MAILBOX_NAME_BYTES_MAX)?,
            uid_validity: self.u32(tag::UID_VALIDITY)?,
            uid: self.uid(kind, tag::UID)?,
            guid: text(self.need(kind, tag::MESSAGE_GUID)?, TEXT_BYTES_MAX)?,
            blob: self.get(tag::BLOB_ID).map(|field| array(field).map(BlobId)).transpose()?,
            size_physical_bytes: self.u64(tag::SIZE_PHYSICAL)?,
            size_virtual_bytes: self.u64(tag::SIZE_VIRTUAL)?,
            received_s: self.u64(tag::RECEIVED_S)?.cast_signed(),
            received_tz_minutes: self.u32(tag::RECEIVED_TZ_MINUTES)?.cast_signed(),
            saved_s: self.u64(tag::SAVED_S)?.cast_signed(),
            flags: self.flags()?,
            keywords: core::mem::take(&mut self.keywords),
            modseq: self.u64(tag::MODSEQ)?,
        })
    }
}

impl Op {
    /// Reads an operation.
    ///
    /// # Errors
    /// Names the rule that the bytes break and the place. Allocates at most what the bytes hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, OpError> {
        let (kind, fields) = Fields::of(bytes)?;
        let mut got = Gathered::of(fields)?;
        let snapshot = got.u64(tag::SNAPSHOT)?;
        Ok(match kind {
            kind::MAILBOX_CREATED => Self::MailboxCreated { mailbox: got.mailbox(kind)?, snapshot },
            kind::MAILBOX_DELETED => Self::MailboxDeleted {
                guid: got.guid(kind, tag::MAILBOX_GUID)?,
                name: got.text(tag::MAILBOX_NAME, MAILBOX_NAME_BYTES_MAX)?,
            },
            kind::MAILBOX_RENAMED => Self::MailboxRenamed {
                guid: got.get(tag::MAILBOX_GUID).map_or(Ok(MailboxGuid::default()), |f| array(f).map(MailboxGuid))?,
                old_name: got.name(kind, tag::OLD_NAME)?,
                new_name: got.name(kind, tag::MAILBOX_NAME)?,
            },
            kind::MAILBOX_UPDATED => {
                got.need(kind, tag::MAILBOX_GUID)?;
                Self::MailboxUpdated { mailbox: got.mailbox(kind)?, snapshot }
            }
            kind::SUBSCRIBED => Self::Subscribed { name: got.name(kind, tag::MAILBOX_NAME)?, snapshot },
            kind::UNSUBSCRIBED => Self::Unsubscribed { name: got.name(kind, tag::MAILBOX_NAME)? },
            kind::MESSAGE_SAVED => Self::MessageSaved { message: got.message(kind)?, snapshot },
            kind::MESSAGE_COPIED => Self::MessageCopied {
                message: got.message(kind)?,
                source: got.guid(kind, tag::SOURCE_MAILBOX_GUID)?,
                source_uid: got.uid(kind, tag::SOURCE_UID)?,
                moved: got.u32(tag::MOVED)? != 0,
            },
            kind::MESSAGE_EXPUNGED => Self::MessageExpunged {
                mailbox: got.guid(kind, tag::MAILBOX_GUID)?,
                uid: got.uid(kind, tag::UID)?,
                guid: got.text(tag::MESSAGE_GUID, TEXT_BYTES_MAX)?,
            },
            kind::FLAGS_SET => Self::FlagsSet {
                mailbox: got.guid(kind, tag::MAILBOX_GUID)?,
                uid: got.uid(kind, tag::UID)?,
                guid: got.text(tag::MESSAGE_GUID, TEXT_BYTES_MAX)?,
                flags: got.flags()?,
                keywords: core::mem::take(&mut got.keywords),
                modseq: got.u64(tag::MODSEQ)?,
            },
            kind::ATTRIBUTE_SET => Self::AttributeSet {
                mailbox: got.get(tag::MAILBOX_GUID).map(|field| array(field).map(MailboxGuid)).transpose()?,
                private: got.u32(tag::ATTRIBUTE_PRIVATE)? != 0,
                key: text(got.need(kind, tag::ATTRIBUTE_KEY)?, TEXT_BYTES_MAX)?,
                value: match got.get(tag::ATTRIBUTE_VALUE) {
                    Some(f) if f.value.len() > ATTRIBUTE_BYTES_MAX => {
                        return Err(OpError::FieldLength { tag: f.tag, at: f.at, len: f.value.len() });
                    }
                    other => other.map(|f| f.value.to_vec()),
                },
                snapshot,
            },
            kind::QUARANTINED => Self::Quarantined { reason: got.text(tag::REASON, TEXT_BYTES_MAX)? },
            kind::RESYNC_BEGIN => Self::ResyncBegin { snapshot },
            kind::RESYNC_END => Self::ResyncEnd { snapshot },
            _ => Self::Unknown { kind, fields: bytes[OP_HEAD_BYTES..].to_vec() },
        })
    }

    /// The operation's bytes. Zero numbers and empty texts are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new(self.kind());
        match self {
            Self::MailboxCreated { mailbox, snapshot } | Self::MailboxUpdated { mailbox, snapshot } => {
                put_mailbox(&mut out, mailbox);
                out.u64(tag::SNAPSHOT, *snapshot);
            }
            Self::MailboxDeleted { guid, name } => {
                out.bytes(tag::MAILBOX_GUID, &guid.0).text(tag::MAILBOX_NAME, name);
            }
            Self::MailboxRenamed { guid, old_name, new_name } => {
                out.bytes(tag::MAILBOX_GUID, &guid.0).text(tag::OLD_NAME, old_name).text(tag::MAILBOX_NAME, new_name);
            }
            Self::Subscribed { name, snapshot } => {
                out.text(tag::MAILBOX_NAME, name).u64(tag::SNAPSHOT, *snapshot);
            }
            Self::Unsubscribed { name } => {
                out.text(tag::MAILBOX_NAME, name);
            }
            Self::MessageSaved { message, snapshot } => {
                put_message(&mut out, message);
                out.u64(tag::SNAPSHOT, *snapshot);
            }
            Self::MessageCopied { message, source, source_uid, moved } => {
                put_message(&mut out, message);
                out.bytes(tag::SOURCE_MAILBOX_GUID, &source.0);
                out.u32(tag::SOURCE_UID, *source_uid).u32(tag::MOVED, u32::from(*moved));
            }
            Self::MessageExpunged { mailbox, uid, guid } => {
                out.bytes(tag::MAILBOX_GUID, &mailbox.0).u32(tag::UID, *uid).text(tag::MESSAGE_GUID, guid);
            }
            Self::FlagsSet { mailbox, uid, guid, flags, keywords, modseq } => {
                out.bytes(tag::MAILBOX_GUID, &mailbox.0).u32(tag::UID, *uid).text(tag::MESSAGE_GUID, guid);
                out.u32(tag::FLAGS, *flags).u64(tag::MODSEQ, *modseq);
                for keyword in keywords {
                    out.text(tag::KEYWORD, keyword);
                }
            }
            Self::AttributeSet { mailbox, private, key, value, snapshot } => {
                if let Some(guid) = mailbox {
                    out.bytes(tag::MAILBOX_GUID, &guid.0);
                }
                out.u32(tag::ATTRIBUTE_PRIVATE, u32::from(*private)).text(tag::ATTRIBUTE_KEY, key);
                if let Some(value) = value {
                    out.bytes(tag::ATTRIBUTE_VALUE, value);
                }
                out.u64(tag::SNAPSHOT, *snapshot);
            }
            Self::Quarantined { reason } => {
                out.text(tag::REASON, reason);
            }
            Self::ResyncBegin { snapshot } | Self::ResyncEnd { snapshot } => {
                out.u64(tag::SNAPSHOT, *snapshot);
            }
            Self::Unknown { fields, .. } => {
                out.0.extend_from_slice(fields);
            }
        }
        out.finish()
    }
}

fn put_mailbox(out: &mut Encoder, mailbox: &Mailbox) {
    if mailbox.guid != MailboxGuid::default() {
        out.bytes(tag::MAILBOX_GUID, &mailbox.guid.0);
    }
    out.text(tag::MAILBOX_NAME, &mailbox.name);
    out.u32(tag::UID_VALIDITY, mailbox.uid_validity).u32(tag::NEXT_UID, mailbox.next_uid);
    out.u64(tag::HIGHEST_MODSEQ, mailbox.highest_modseq).u32(tag::DIRECTORY, u32::from(mailbox.directory));
}

fn put_message(out: &mut Encoder, message: &Message) {
    out.bytes(tag::MAILBOX_GUID, &message.mailbox.0).text(tag::MAILBOX_NAME, &message.mailbox_name);
    out.u32(tag::UID_VALIDITY, message.uid_validity).u32(tag::UID, message.uid);
    out.text(tag::MESSAGE_GUID, &message.guid);
    if let Some(blob) = message.blob {
        out.bytes(tag::BLOB_ID, &blob.0);
    }
    out.u64(tag::SIZE_PHYSICAL, message.size_physical_bytes).u64(tag::SIZE_VIRTUAL, message.size_virtual_bytes);
    out.u64(tag::RECEIVED_S, message.received_s.cast_unsigned());
    out.u32(tag::RECEIVED_TZ_MINUTES, message.received_tz_minutes.cast_unsigned());
    out.u64(tag::SAVED_S, message.saved_s.cast_unsigned()).u32(tag::FLAGS, message.flags);
    for keyword in &message.keywords {
        out.text(tag::KEYWORD, keyword);
    }
    out.u64(tag::MODSEQ, message.modseq);
}
