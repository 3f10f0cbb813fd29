//! An operation as text, for logs and for `status`.
//!
//! Owns: the words. Refuses: everything else.

use understudy_types::op::Op;

/// Kind, mailbox and UID, for people.
pub(super) fn describe(op: &Op) -> String {
    let kind = Op::kind_name(op.kind());
    match op {
        Op::MessageSaved { message, .. } | Op::MessageCopied { message, .. } => {
            format!("{kind} uid {} in `{}` ({})", message.uid, message.mailbox_name, message.mailbox)
        }
        Op::MessageExpunged { mailbox, uid, .. } | Op::FlagsSet { mailbox, uid, .. } => {
            format!("{kind} uid {uid} in {mailbox}")
        }
        Op::MailboxCreated { mailbox, .. } | Op::MailboxUpdated { mailbox, .. } => format!("{kind} `{}`", mailbox.name),
        Op::MailboxDeleted { name, .. } | Op::Subscribed { name, .. } | Op::Unsubscribed { name } => {
            format!("{kind} `{name}`")
        }
        Op::MailboxRenamed { old_name, new_name, .. } => format!("{kind} `{old_name}` to `{new_name}`"),
        Op::AttributeSet { key, .. } => format!("{kind} `{key}`"),
        _ => kind.to_owned(),
    }
}
