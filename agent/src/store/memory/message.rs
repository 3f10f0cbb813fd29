//! Messages of the store in memory: saved, copied, expunged, flagged.
//!
//! Owns: what a store makes of UIDs that come in a wrong order. Refuses: putting a message in below the next UID.

use std::path::Path;
use std::sync::Arc;

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::Message;

use super::account::Account;
use super::{BodyPlace, done, failed};
use crate::store::{Outcome, Status};

#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) body: Arc<[u8]>,
}

impl Stored {
    pub(super) fn blob(&self) -> BlobId {
        BlobId(*blake3::hash(&self.body).as_bytes())
    }
}

/// Bytes with CRLF line ends.
fn virtual_bytes(body: &[u8]) -> u64 {
    let mut previous = 0;
    let mut bytes = 0;
    for byte in body {
        bytes += if *byte == b'\n' && previous != b'\r' { 2 } else { 1 };
        previous = *byte;
    }
    bytes
}

fn read_body(bodies: &dyn BodyPlace, path: Option<&Path>, size_bytes: u64) -> Result<Arc<[u8]>, Outcome> {
    let unreadable = |detail: String| failed(Status::BodyUnreadable, detail);
    let path = path.ok_or_else(|| unreadable("no body path".into()))?;
    let body = bodies.read(path).map_err(|error| unreadable(error.to_string()))?;
    if size_bytes != 0 && body.len() as u64 != size_bytes {
        return Err(unreadable("body is not of the right size".into()));
    }
    Ok(body.into())
}

impl Account {
    pub(super) fn save(
        &mut self,
        message: &Message,
        source: Option<(MailboxGuid, u32)>,
        body_path: Option<&Path>,
        bodies: &dyn BodyPlace,
    ) -> Outcome {
        self.try_save(message, source, body_path, bodies).unwrap_or_else(|outcome| outcome)
    }

    fn try_save(
        &mut self,
        message: &Message,
        source: Option<(MailboxGuid, u32)>,
        body_path: Option<&Path>,
        bodies: &dyn BodyPlace,
    ) -> Result<Outcome, Outcome> {
        self.ensure(message.mailbox, &message.mailbox_name, message.uid_validity)?;
        let copied = source.and_then(|(guid, uid)| {
            let found = self.mailboxes.get(&guid)?.messages.get(&uid)?;
            (found.message.guid == message.guid).then(|| Arc::clone(&found.body))
        });
        let (folder, _) = self.open(message.mailbox, message.uid_validity)?;
        let uid = message.uid;
        if uid < folder.next_uid {
            return match (folder.messages.get(&uid), folder.expunged.get(&uid)) {
                (Some(have), _) if have.message.guid == message.guid => Ok(done(false)),
                (Some(_), _) => Err(failed(Status::UidConflict, format!("UID `{uid}` is another message"))),
                (None, Some(guid)) if *guid == message.guid => Ok(done(false)),
                (None, _) => Err(failed(Status::UidConflict, format!("UID `{uid}` is below the mailbox's next"))),
            };
        }
        let body = match copied {
            Some(body) => body,
            None if source.is_some() && body_path.is_none() => {
                return Err(failed(Status::SourceMissing, "source of the copy is not here"));
            }
            None => read_body(bodies, body_path, message.size_physical_bytes)?,
        };
        let mut kept = message.clone();
        kept.size_physical_bytes = body.len() as u64;
        kept.size_virtual_bytes = virtual_bytes(&body);
        kept.blob = None;
        // No mail store of ours keeps the zone.
        kept.received_tz_minutes = 0;
        folder.next_uid = uid + 1;
        folder.highest_modseq = folder.highest_modseq.max(message.modseq);
        folder.messages.insert(uid, Stored { message: kept, body });
        Ok(done(true))
    }

    pub(super) fn expunge(&mut self, mailbox: MailboxGuid, uid: u32, guid: &str) -> Outcome {
        let Ok((folder, _)) = self.open(mailbox, 0) else {
            return failed(Status::NoMailbox, "no mailbox of this GUID");
        };
        match folder.messages.get(&uid) {
            None => done(false),
            Some(have) if !guid.is_empty() && have.message.guid != guid => {
                failed(Status::UidConflict, format!("UID `{uid}` is another message"))
            }
            Some(have) => {
                folder.expunged.insert(uid, have.message.guid.clone());
                folder.messages.remove(&uid);
                done(true)
            }
        }
    }

    pub(super) fn set_flags(
        &mut self,
        mailbox: MailboxGuid,
        uid: u32,
        guid: &str,
        flags: u32,
        keywords: &[String],
        modseq: u64,
    ) -> Outcome {
        let Ok((folder, _)) = self.open(mailbox, 0) else {
            return failed(Status::NoMailbox, "no mailbox of this GUID");
        };
        let next_uid = folder.next_uid;
        let Some(have) = folder.messages.get_mut(&uid).map(|stored| &mut stored.message) else {
            return match uid < next_uid {
                true => done(false),
                false => failed(Status::UidConflict, format!("UID `{uid}` has not come yet")),
            };
        };
        if !guid.is_empty() && have.guid != guid {
            return failed(Status::UidConflict, format!("UID `{uid}` is another message"));
        }
        let changed = have.flags != flags || have.keywords != keywords || have.modseq < modseq;
        have.flags = flags;
        have.keywords = keywords.to_vec();
        have.modseq = have.modseq.max(modseq);
        folder.highest_modseq = folder.highest_modseq.max(modseq);
        done(changed)
    }
}
