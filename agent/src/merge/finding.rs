//! What a merge found, as it stands in the report: one thing that one side changed, both values, and the decision.
//!
//! Owns: the closed set of findings, and which of them are conflicts. Refuses: files; see [`super::report`].

use serde::{Deserialize, Serialize};

/// What was found. "Here" is the node that came back, "there" the one that is active now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A message that only this node had.
    MessageBrought,
    /// Both sides gave the UID to different messages.
    UidConflict,
    /// A second copy of a message in the same mailbox.
    CopyLeft,
    /// A message that was changed here and deleted there.
    DeletedThere,
    /// A message that was expunged here and is there.
    ExpungedHere,
    /// Flags that only this node changed.
    FlagsBrought,
    /// Flags that both sides changed.
    FlagsConflict,
    /// A mailbox that only this node had.
    MailboxBrought,
    /// A mailbox that is gone there, and of which messages come back.
    MailboxDeletedThere,
    /// A mailbox that was deleted here and is there.
    MailboxDeletedHere,
    /// A mailbox that only this node renamed.
    MailboxRenamed,
    /// A mailbox that has a name on each side.
    RenameConflict,
    SubscriptionBrought,
    AttributeBrought,
    /// A METADATA entry with a value on each side.
    AttributeConflict,
    /// Where the histories parted is not known: nothing that is here counts as deleted there.
    ForkUnknown,
}

impl What {
    /// Whether the two sides wanted different things, so that one of them did not get its way.
    #[must_use]
    pub fn is_conflict(self) -> bool {
        match self {
            Self::MessageBrought
            | Self::FlagsBrought
            | Self::MailboxBrought
            | Self::MailboxRenamed
            | Self::SubscriptionBrought
            | Self::AttributeBrought
            | Self::ForkUnknown => false,
            Self::UidConflict
            | Self::CopyLeft
            | Self::DeletedThere
            | Self::ExpungedHere
            | Self::FlagsConflict
            | Self::MailboxDeletedThere
            | Self::MailboxDeletedHere
            | Self::RenameConflict
            | Self::AttributeConflict => true,
        }
    }

    /// As it stands in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MessageBrought => "message-brought",
            Self::UidConflict => "uid-conflict",
            Self::CopyLeft => "copy-left",
            Self::DeletedThere => "deleted-there",
            Self::ExpungedHere => "expunged-here",
            Self::FlagsBrought => "flags-brought",
            Self::FlagsConflict => "flags-conflict",
            Self::MailboxBrought => "mailbox-brought",
            Self::MailboxDeletedThere => "mailbox-deleted-there",
            Self::MailboxDeletedHere => "mailbox-deleted-here",
            Self::MailboxRenamed => "mailbox-renamed",
            Self::RenameConflict => "rename-conflict",
            Self::SubscriptionBrought => "subscription-brought",
            Self::AttributeBrought => "attribute-brought",
            Self::AttributeConflict => "attribute-conflict",
            Self::ForkUnknown => "fork-unknown",
        }
    }
}

/// One line of a report, without time and account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub what: What,
    /// Name of the mailbox on the node that came back; empty when it is about none.
    #[serde(default)]
    pub mailbox: String,
    /// GUID of the message; empty when it is about none. Key of a METADATA entry, name of a subscription.
    #[serde(default)]
    pub object: String,
    /// UID on the node that came back; 0 when it is about no message of it.
    #[serde(default)]
    pub uid: u32,
    /// What the node that came back had.
    pub here: String,
    /// What the active had.
    pub there: String,
    pub decision: String,
}

/// Flags and keywords for people.
#[must_use]
pub fn flags_text(flags: u32, keywords: &[String]) -> String {
    use understudy_types::op::flag;

    let named = [
        (flag::ANSWERED, "\\Answered"),
        (flag::FLAGGED, "\\Flagged"),
        (flag::DELETED, "\\Deleted"),
        (flag::SEEN, "\\Seen"),
        (flag::DRAFT, "\\Draft"),
    ];
    let system = named.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    let all: Vec<&str> = system.chain(keywords.iter().map(String::as_str)).collect();
    if all.is_empty() { "none".into() } else { all.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_report() {
        for what in [What::MessageBrought, What::UidConflict, What::MailboxDeletedThere, What::ForkUnknown] {
            assert_eq!(serde_json::to_value(what).unwrap(), what.name());
        }
        assert_eq!(flags_text(0x0a, &["k".into()]), "\\Flagged \\Seen k");
        assert_eq!(flags_text(0, &[]), "none");
    }
}
