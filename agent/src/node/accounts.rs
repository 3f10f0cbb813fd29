//! Accounts that this node has seen, those that were copied to their replicas once, and those that owe a snapshot.
//!
//! Owns: one redb file with the first copies that are complete, and the debts. What can hurt: forgetting that an
//! account was copied costs another copy, which changes nothing; believing that one was copied which was not would
//! leave its old mail on one node, so the mark is set when the end of the snapshot is durable. A debt that is forgotten
//! leaves a difference that nobody knows of, so it is durable before anything that it repairs is let go of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redb::{ReadableTable, TableDefinition};
use understudy_types::id::{GroupId, NodeId};

use crate::apply::cursor::CursorError;
use crate::database::Database;

/// Account, and the replicas that its first copy was made for.
const COPIED: TableDefinition<'_, &str, &str> = TableDefinition::new("copied-1");

/// Account, and whether the snapshot that it owes is to carry bodies.
const OWED: TableDefinition<'_, &str, bool> = TableDefinition::new("owed-1");

/// What is known about one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub group: GroupId,
    /// Last operation of the account in this life of the agent; 0 = none.
    pub last_seq: u64,
    /// Replicas that have a whole copy.
    pub copied_for: BTreeSet<NodeId>,
}

impl Known {
    /// Whether all of these nodes have a whole copy.
    #[must_use]
    pub(crate) fn is_copied_for(&self, replicas: &[NodeId]) -> bool {
        replicas.iter().all(|node| self.copied_for.contains(node))
    }
}

/// As it stands in the file: `2,3`.
fn as_text(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(|node| node.get().to_string()).collect::<Vec<_>>().join(",")
}

fn of_text(text: &str) -> BTreeSet<NodeId> {
    text.split(',').filter_map(|node| NodeId::new(node.parse().ok()?)).collect()
}

/// The accounts.
pub(crate) struct Accounts {
    database: Database,
    known: BTreeMap<String, Known>,
    owed: BTreeMap<String, bool>,
}

impl Accounts {
    /// Opens or makes the file. `group_of` places the accounts that it names.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(crate) fn open(path: &Path, group_of: impl Fn(&str) -> GroupId) -> Result<Self, CursorError> {
        let database = Database::create(path)?;
        let write = database.begin_write()?;
        write.open_table(COPIED)?;
        write.open_table(OWED)?;
        write.commit()?;
        let mut known = BTreeMap::new();
        for row in database.begin_read()?.open_table(COPIED)?.iter()? {
            let (account, copied_for) = row?;
            let group = group_of(account.value());
            let entry = Known { group, last_seq: 0, copied_for: of_text(copied_for.value()) };
            known.insert(account.value().to_owned(), entry);
        }
        let mut owed = BTreeMap::new();
        for row in database.begin_read()?.open_table(OWED)?.iter()? {
            let (account, bodies) = row?;
            owed.insert(account.value().to_owned(), bodies.value());
            known.entry(account.value().to_owned()).or_insert_with(|| Known {
                group: group_of(account.value()),
                last_seq: 0,
                copied_for: BTreeSet::new(),
            });
        }
        Ok(Self { database, known, owed })
    }

    /// A snapshot is owed by these accounts; durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn owe<'a>(
        &mut self,
        accounts: impl IntoIterator<Item = &'a str>,
        bodies: bool,
    ) -> Result<(), CursorError> {
        let owed = &self.owed;
        let news: BTreeSet<&str> =
            accounts.into_iter().filter(|account| owed.get(*account).is_none_or(|with| bodies && !with)).collect();
        if news.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(OWED)?;
            for account in &news {
                table.insert(*account, bodies)?;
            }
        }
        write.commit()?;
        self.owed.extend(news.into_iter().map(|account| (account.to_owned(), bodies)));
        Ok(())
    }

    /// Whether a snapshot is owed.
    #[must_use]
    pub(crate) fn owes(&self, account: &str) -> bool {
        self.owed.contains_key(account)
    }

    /// Everybody who owes a snapshot, and whether with bodies.
    pub(crate) fn owed(&self) -> impl Iterator<Item = (&str, bool)> {
        self.owed.iter().map(|(account, bodies)| (account.as_str(), *bodies))
    }

    /// Nothing is owed any more.
    ///
    /// # Errors
    /// When the file cannot be written: the snapshot is then made again after a restart.
    pub(crate) fn settled(&mut self, account: &str) -> Result<(), CursorError> {
        if self.owed.remove(account).is_some() {
            let write = self.database.begin_write()?;
            write.open_table(OWED)?.remove(account)?;
            write.commit()?;
        }
        Ok(())
    }

    /// The account's entry; made when it is seen for the first time.
    pub(crate) fn see(&mut self, account: &str, group: GroupId) -> &mut Known {
        if !self.known.contains_key(account) {
            let entry = Known { group, last_seq: 0, copied_for: BTreeSet::new() };
            self.known.insert(account.to_owned(), entry);
        }
        let entry = self.known.get_mut(account).unwrap_or_else(|| unreachable!("inserted just above"));
        entry.group = group;
        entry
    }

    /// What is known about an account.
    #[must_use]
    pub(crate) fn get(&self, account: &str) -> Option<&Known> {
        self.known.get(account)
    }

    /// Everybody, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.known.iter().map(|(account, known)| (account.as_str(), known))
    }

    /// These replicas, and no others, have whole copies of these accounts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn copied<'a>(
        &mut self,
        accounts: impl IntoIterator<Item = &'a str>,
        copied_for: &BTreeSet<NodeId>,
    ) -> Result<(), CursorError> {
        let text = as_text(copied_for);
        let mut news = Vec::new();
        for account in accounts {
            if let Some(known) = self.known.get_mut(account).filter(|known| known.copied_for != *copied_for) {
                known.copied_for.clone_from(copied_for);
                news.push(account);
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write()?;
        {
            let mut table = write.open_table(COPIED)?;
            for account in news {
                table.insert(account, text.as_str())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_outlives_the_agent_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts");
        {
            let mut accounts = Accounts::open(&path, |_| GroupId(1)).unwrap();
            accounts.owe(["a", "b", "c"], false).unwrap();
            accounts.owe(["b"], true).unwrap();
            accounts.owe(["b"], false).unwrap();
            accounts.settled("a").unwrap();
        }
        let mut accounts = Accounts::open(&path, |_| GroupId(1)).unwrap();
        assert_eq!(accounts.owed().collect::<Vec<_>>(), [("b", true), ("c", false)]);
        assert!(!accounts.owes("a") && accounts.owes("b"));
        assert!(accounts.get("c").is_some(), "known by what it owes");
        accounts.settled("b").unwrap();
        drop(accounts);
        assert!(!Accounts::open(&path, |_| GroupId(1)).unwrap().owes("b"));
    }

    #[test]
    fn a_complete_copy_is_remembered_and_an_unfinished_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts");
        {
            let mut accounts = Accounts::open(&path, |_| GroupId(1)).unwrap();
            accounts.see("a", GroupId(1)).last_seq = 5;
            accounts.see("b", GroupId(1));
            accounts.copied(["a"], &of_text("2,7")).unwrap();
        }
        let accounts = Accounts::open(&path, |_| GroupId(3)).unwrap();
        let copied_for = of_text("7,2");
        assert_eq!(accounts.get("a"), Some(&Known { group: GroupId(3), last_seq: 0, copied_for }));
        assert_eq!(accounts.get("b"), None);
    }
}
