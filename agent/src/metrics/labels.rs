//! The label sets, each a type, so that a family cannot get a label that it was not made for.
//!
//! Refuses: accounts, mailboxes, addresses: whatever has no small number of values.

use prometheus_client::encoding::EncodeLabelSet;

macro_rules! label_sets {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $(pub $field: String,)*
        }

        impl $name {
            /// From its values, in order.
            #[must_use]
            pub fn new($($field: &str),*) -> Self {
                Self { $($field: $field.to_owned()),* }
            }
        }
    )*};
}

label_sets! {
    /// A peer by name.
    Peer { peer }
    /// A part (`journal`, `transport`) and how it works (`io_uring`, `plain`).
    Io { part, backend }
    /// `active` or `replica`.
    Role { role }
    /// What this node is for a group just now (`serving`, `opening`, `fenced`, `moving`, `merging`, `following`,
    /// `none`).
    State { state }
    /// A kind of operation and what became of it.
    Op { kind, outcome }
    /// What became of something.
    Outcome { outcome }
    /// What became of a body.
    Blob { outcome }
    /// A row of the probe.
    Row { row }
    /// A row of the probe and an error (`EIO`).
    ProbeError { row, error }
    /// A row of the probe and a quantile (`0.5`, `0.99`, `1`).
    ProbeLatency { row, quantile }
    /// `node` or `store`.
    Scope { scope }
    /// A sign of the store (`master`, `disk`, `store`, `calls`), or `all`.
    Sign { sign }
    /// A peer and how a look at it ended (`good`, `failed`).
    CanaryRound { peer, outcome }
    /// Whose pressure (`node`, `store`), for what (`cpu`, `memory`, `io`), and of whom (`some`, `full`).
    Pressure { scope, resource, share }
}
