//! Which kinds of operation a rule replicates, as a mask with one bit for each kind.
//!
//! Owns: the classes of kinds and their names. What can hurt: a set that cannot be replayed (flags without the
//! messages that they are on); it is refused with what is missing. Kinds of a newer store are let through.

use serde::{Serialize, Serializer};
use understudy_types::op::{Op, kind};

/// Bit n stands for operations of kind n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindMask(pub u64);

/// Classes, each with its kinds and with the class without which it cannot be replayed.
const CLASSES: &[(&str, &[u16], Option<&str>)] = &[
    ("mailboxes", &[kind::MAILBOX_CREATED, kind::MAILBOX_DELETED, kind::MAILBOX_RENAMED, kind::MAILBOX_UPDATED], None),
    ("messages", &[kind::MESSAGE_SAVED, kind::MESSAGE_COPIED, kind::MESSAGE_EXPUNGED], Some("mailboxes")),
    ("flags", &[kind::FLAGS_SET], Some("messages")),
    ("subscriptions", &[kind::SUBSCRIBED, kind::UNSUBSCRIBED], None),
    ("metadata", &[kind::ATTRIBUTE_SET], Some("mailboxes")),
];

/// Kinds of the agents among themselves: never excluded.
const ALWAYS: &[u16] = &[kind::QUARANTINED, kind::RESYNC_BEGIN, kind::RESYNC_END];

fn bits(kinds: &[u16]) -> u64 {
    kinds.iter().fold(0, |mask, kind| mask | 1 << kind)
}

/// A class or a single kind by name.
fn named(name: &str) -> Option<u64> {
    let class = CLASSES.iter().find(|(class, ..)| *class == name).map(|(_, kinds, _)| bits(kinds));
    class.or_else(|| single().find(|(_, kind_name)| *kind_name == name).map(|(kind, _)| 1 << kind))
}

/// Kinds that can be named one by one.
fn single() -> impl Iterator<Item = (u16, &'static str)> {
    CLASSES.iter().flat_map(|(_, kinds, _)| kinds.iter().map(|kind| (*kind, Op::kind_name(*kind))))
}

impl KindMask {
    /// Everything, kinds of a newer store too.
    pub const ALL: Self = Self(u64::MAX);

    /// From the names of a rule.
    ///
    /// # Errors
    ///
    /// The key below the rule, what is wrong with it, and what to do.
    pub fn build(include: &[String], exclude: &[String]) -> Result<Self, (&'static str, String, String)> {
        let mut mask = u64::MAX;
        for kind in single().map(|(kind, _)| kind) {
            mask &= !(1 << kind);
        }
        for (key, names) in [("kinds.include", include), ("kinds.exclude", exclude)] {
            for name in names {
                let Some(bits) = named(name) else {
                    let all = CLASSES.iter().map(|(class, ..)| *class).chain(single().map(|(_, name)| name));
                    let remedy = crate::config::keys::nearest(name, all).map_or_else(
                        || "see docs/configuration.md".to_owned(),
                        |near| format!("did you mean `{near}`?"),
                    );
                    return Err((key, format!("there is no kind of operation `{name}`"), remedy));
                };
                if key == "kinds.include" { mask |= bits } else { mask &= !bits }
            }
        }
        mask |= bits(ALWAYS);
        for (class, kinds, needs) in CLASSES {
            let Some(needs) = needs else { continue };
            let needed = named(needs).unwrap_or(0);
            if mask & bits(kinds) != 0 && mask & needed != needed {
                return Err((
                    "kinds",
                    format!("`{class}` cannot be replayed without all of `{needs}`"),
                    format!("include `{needs}`, or leave `{class}` out"),
                ));
            }
        }
        Ok(Self(mask))
    }

    /// Whether operations of this kind are replicated. Kinds beyond the mask are: they are a newer store's.
    #[must_use]
    pub fn contains(self, kind: u16) -> bool {
        kind >= 64 || self.0 & 1 << kind != 0
    }

    /// The classes and single kinds of the mask, for people.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (class, kinds, _) in CLASSES {
            if self.0 & bits(kinds) == bits(kinds) {
                names.push(*class);
            } else {
                names.extend(kinds.iter().filter(|kind| self.contains(**kind)).map(|kind| Op::kind_name(*kind)));
            }
        }
        names
    }
}

impl Serialize for KindMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}
