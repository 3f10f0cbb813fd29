//! What a rule says about destructive operations: how long replicas hold them, and whether a storm trips the brake.
//!
//! Owns: the classes of destructive operations and their names. What can hurt: taking an operation for harmless that
//! destroys mail; so the classes are a closed set over kinds. Refuses: \\Deleted flags, which a user takes back by
//! himself until the expunge that follows, and the removal of names without mail.

use serde::Serialize;
use understudy_types::id::MailboxGuid;
use understudy_types::op::Op;

use crate::config::model::RuleConfig;
use crate::limits::EXPUNGE_GRACE_S;

/// Operations that destroy mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Expunge,
    MailboxDelete,
}

const CLASSES: [Class; 2] = [Class::Expunge, Class::MailboxDelete];

impl Class {
    /// The class of an operation; `None` for one that destroys nothing.
    #[must_use]
    pub fn of(op: &Op) -> Option<Self> {
        match op {
            Op::MessageExpunged { .. } => Some(Self::Expunge),
            Op::MailboxDeleted { guid, .. } if *guid != MailboxGuid::default() => Some(Self::MailboxDelete),
            _ => None,
        }
    }

    /// As it is written in a rule.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expunge => "expunge",
            Self::MailboxDelete => "mailbox-delete",
        }
    }
}

/// What becomes of held operations when the replica is promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnPromotion {
    #[default]
    Apply,
    Keep,
}

/// What holds for destructive operations of an account on its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// 0 = none.
    pub window_s: u64,
    pub expunge: bool,
    pub mailbox_delete: bool,
    pub on_promotion: OnPromotion,
    pub brake: bool,
    /// Operations within a minute that are never a storm.
    pub brake_floor: u32,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            window_s: 0,
            expunge: true,
            mailbox_delete: true,
            on_promotion: OnPromotion::Apply,
            brake: true,
            brake_floor: 200,
        }
    }
}

impl Hold {
    /// Nothing is ever held.
    pub const OFF: Self = Self {
        window_s: 0,
        expunge: false,
        mailbox_delete: false,
        on_promotion: OnPromotion::Apply,
        brake: false,
        brake_floor: u32::MAX,
    };

    /// From a rule.
    ///
    /// # Errors
    /// What is wrong with its classes, and what to do.
    pub(super) fn build(rule: &RuleConfig) -> Result<Self, (String, String)> {
        for name in &rule.hold_classes {
            if !CLASSES.iter().any(|class| class.name() == name) {
                let remedy = crate::config::keys::nearest(name, CLASSES.iter().map(|class| class.name())).map_or_else(
                    || "`expunge` and `mailbox-delete` can be held".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err((format!("there is no class of destructive operations `{name}`"), remedy));
            }
        }
        let has = |class: Class| rule.hold_classes.iter().any(|name| name == class.name());
        Ok(Self {
            window_s: rule.hold_s,
            expunge: has(Class::Expunge),
            mailbox_delete: has(Class::MailboxDelete),
            on_promotion: if rule.hold_on_promotion == "keep" { OnPromotion::Keep } else { OnPromotion::Apply },
            brake: rule.brake != "off",
            brake_floor: rule.brake_floor,
        })
    }

    /// How long an operation of this class is held, in seconds; 0 = not at all. Where only deletions of mailboxes are,
    /// expunges wait for a moment all the same: a store empties a mailbox before it deletes it.
    #[must_use]
    pub fn window_s(&self, class: Class) -> u64 {
        match class {
            Class::Expunge if self.expunge => self.window_s,
            Class::Expunge if self.mailbox_delete => self.window_s.min(EXPUNGE_GRACE_S),
            Class::MailboxDelete if self.mailbox_delete => self.window_s,
            Class::Expunge | Class::MailboxDelete => 0,
        }
    }

    /// The classes that are held, by name.
    #[must_use]
    pub fn classes(&self) -> Vec<&'static str> {
        let has = |class: &Class| match class {
            Class::Expunge => self.expunge,
            Class::MailboxDelete => self.mailbox_delete,
        };
        CLASSES.into_iter().filter(|class| self.window_s > 0 && has(class)).map(Class::name).collect()
    }
}
