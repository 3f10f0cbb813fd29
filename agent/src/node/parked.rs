//! Parked accounts, told to the active: so that one account that waits does not make its neighbours look behind.
//!
//! Owns: what was told to whom, and what peers told of theirs. A group's `applied` stands before the first operation of
//! any account that waits, because the journal must keep it; this tells how far all the others are. What can hurt: an
//! old word from a peer: what it said of others was true when it said it and stays so, until its link is gone.
//! Refuses: deciding anything: it is for the lag that people see.

use std::collections::{BTreeMap, BTreeSet};

use understudy_types::id::{GroupId, NodeId, Sequence};
use understudy_types::message::{Message, PARKED_ACCOUNTS_MAX};

use super::core::Core;

/// What a replica said of one group.
#[derive(Debug, Default)]
struct Told {
    applied: u64,
    /// First operation that waits, per account.
    accounts: BTreeMap<String, u64>,
}

/// Both directions.
#[derive(Debug, Default)]
pub(super) struct ParkedBoard {
    by_peer: BTreeMap<(GroupId, NodeId), Told>,
    /// Groups of which this replica told that somebody waits.
    told: BTreeSet<GroupId>,
}

impl ParkedBoard {
    /// How far the peer has applied the account, when the group as a whole stands at `applied`.
    pub(super) fn applied(&self, group: GroupId, peer: NodeId, account: &str, applied: u64) -> u64 {
        let Some(told) = self.by_peer.get(&(group, peer)) else { return applied };
        told.accounts.get(account).map_or(told.applied, |first| first.saturating_sub(1)).max(applied)
    }

    /// The link to the peer is gone: its store may be another one when it comes back.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.by_peer.retain(|(_, of), _| *of != peer);
    }
}

impl Core {
    /// Takes what a replica says of its parked accounts.
    pub(super) fn parked_told(
        &mut self,
        peer: NodeId,
        group: GroupId,
        applied: u64,
        accounts: Vec<(String, Sequence)>,
    ) {
        let Some(own) = self.own.get(&group).filter(|own| own.replicas.contains(&peer)) else { return };
        if accounts.is_empty() || applied > own.journaled {
            self.parked.by_peer.remove(&(group, peer));
            return;
        }
        let accounts = accounts.into_iter().map(|(account, first)| (account, first.0)).collect();
        self.parked.by_peer.insert((group, peer), Told { applied, accounts });
    }

    /// Tells the actives which accounts wait here, once a second while some do, and once when none does any more.
    pub(crate) fn tell_parked(&mut self) {
        let mut groups: BTreeMap<GroupId, Vec<(String, Sequence)>> =
            self.parked.told.iter().map(|group| (*group, Vec::new())).collect();
        let applied = {
            let board = self.board.lock();
            for (account, (group, parked)) in &board.parked {
                groups.entry(*group).or_default().push((account.clone(), Sequence(parked.since_seq)));
            }
            groups
                .keys()
                .map(|group| (*group, board.applied.get(group).copied().unwrap_or(0)))
                .collect::<BTreeMap<_, _>>()
        };
        for (group, accounts) in groups {
            let Some(link) = self.receiver.link(group).filter(|_| accounts.len() <= PARKED_ACCOUNTS_MAX) else {
                continue;
            };
            let ended = accounts.is_empty();
            let applied = Sequence(applied.get(&group).copied().unwrap_or(0));
            // A full queue: it is told again in a second.
            if self.transport.send_on(link, &Message::Parked { group, applied, accounts }).is_ok() {
                if ended {
                    self.parked.told.remove(&group);
                } else {
                    self.parked.told.insert(group);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_account_is_behind_alone() {
        let (group, peer) = (GroupId(1), NodeId::new(2).unwrap());
        let mut board = ParkedBoard::default();
        assert_eq!(board.applied(group, peer, "a", 10), 10);
        let accounts = BTreeMap::from([("a".to_owned(), 11)]);
        board.by_peer.insert((group, peer), Told { applied: 90, accounts });
        assert_eq!(board.applied(group, peer, "a", 10), 10);
        assert_eq!(board.applied(group, peer, "b", 10), 90);
        assert_eq!(board.applied(group, peer, "b", 95), 95, "an older word takes nothing back");
        board.forget(peer);
        assert_eq!(board.applied(group, peer, "b", 10), 10);
    }
}
