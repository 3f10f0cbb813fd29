//! The report of a merge: a file of lines of JSON, one finding each.
//!
//! Owns: `GROUP-EPOCH.jsonl` in the folder of merges. What can hurt: an agent that dies between merging and telling; so
//! findings are on disk before the active is given anything, and one that is found again after a crash stands there
//! once. A line that was cut by a crash is passed over. Refuses: a name that is not two numbers: people write it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use understudy_types::id::{Epoch, GroupId};

use super::{Finding, What};
use crate::durable;
use crate::limits::MERGE_FINDINGS_MAX;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub wall_ns: u64,
    pub account: String,
    #[serde(flatten)]
    pub finding: Finding,
}

/// Name of a merge, as its file and as an administrator writes it.
#[must_use]
pub fn name(group: GroupId, epoch: Epoch) -> String {
    format!("{group}-{epoch}")
}

/// Reads a merge's name.
#[must_use]
pub fn parse(name: &str) -> Option<(GroupId, Epoch)> {
    let (group, epoch) = name.split_once('-')?;
    Some((GroupId(group.parse().ok()?), Epoch(epoch.parse().ok()?)))
}

fn path(directory: &Path, group: GroupId, epoch: Epoch) -> PathBuf {
    directory.join(format!("{}.jsonl", name(group, epoch)))
}

/// The lines of a report; none when nothing was found.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(directory: &Path, group: GroupId, epoch: Epoch) -> std::io::Result<Vec<Line>> {
    let file = match File::open(path(directory, group, epoch)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        lines.extend(serde_json::from_slice::<Line>(&line?).ok());
    }
    Ok(lines)
}

/// Removes a report.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn remove(directory: &Path, group: GroupId, epoch: Epoch) -> std::io::Result<()> {
    match std::fs::remove_file(path(directory, group, epoch)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What of an account stands in a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub brought: u32,
    pub conflicts: u32,
}

/// A report that is being written.
pub struct Report {
    file: File,
    known: HashSet<[u8; 16]>,
    counts: BTreeMap<String, Count>,
    past_bound: u64,
}

impl Report {
    /// Opens or makes the report of a merge.
    ///
    /// # Errors
    /// When its file cannot be read or written.
    pub fn open(directory: &Path, group: GroupId, epoch: Epoch) -> std::io::Result<Self> {
        let before = read(directory, group, epoch)?;
        let path = path(directory, group, epoch);
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&path)?;
        durable::sync_directory(directory)?;
        let len = file.seek(SeekFrom::End(0))?;
        let mut last = [b'\n'];
        if len > 0 {
            file.seek(SeekFrom::Start(len - 1))?;
            file.read_exact(&mut last)?;
        }
        if last != [b'\n'] {
            file.write_all(b"\n")?;
        }
        let mut report = Self { file, known: HashSet::new(), counts: BTreeMap::new(), past_bound: 0 };
        for line in &before {
            report.is_new(&line.account, &line.finding);
        }
        Ok(report)
    }

    /// Writes what is new of an account's findings, durable when it returns, and gives those. Past
    /// [`MERGE_FINDINGS_MAX`] they are counted only.
    ///
    /// # Errors
    /// When it cannot be written: nothing may be merged then.
    pub fn add(&mut self, account: &str, findings: &[Finding], wall_ns: u64) -> std::io::Result<Vec<Finding>> {
        let mut text = Vec::new();
        let mut new = Vec::new();
        for finding in findings.iter().filter(|finding| !self.known.contains(&key(account, finding))) {
            if self.known.len() + new.len() >= MERGE_FINDINGS_MAX {
                self.past_bound += 1;
                continue;
            }
            let line = Line { wall_ns, account: account.to_owned(), finding: finding.clone() };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
            new.push(finding.clone());
        }
        if !new.is_empty() {
            self.file.write_all(&text)?;
            self.file.sync_data()?;
        }
        new.retain(|finding| self.is_new(account, finding));
        Ok(new)
    }

    /// What stands there of an account.
    #[must_use]
    pub fn count(&self, account: &str) -> Count {
        self.counts.get(account).copied().unwrap_or_default()
    }

    /// Findings that were not written, because there were too many.
    #[must_use]
    pub fn past_bound(&self) -> u64 {
        self.past_bound
    }

    fn is_new(&mut self, account: &str, finding: &Finding) -> bool {
        let new = self.known.insert(key(account, finding));
        if new {
            let count = self.counts.entry(account.to_owned()).or_default();
            count.brought += u32::from(finding.what == What::MessageBrought);
            count.conflicts += u32::from(finding.what.is_conflict());
        }
        new
    }
}

/// What makes two findings the same one.
fn key(account: &str, finding: &Finding) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for text in [account, finding.what.name(), &finding.mailbox, &finding.object] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&finding.uid.to_le_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::super::plan::finding;
    use super::*;

    #[test]
    fn a_finding_stands_once_also_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let (group, epoch) = (GroupId(3), Epoch(7));
        let brought = finding(What::MessageBrought, "INBOX", "uid 5", "absent", "d");
        let conflict = finding(What::FlagsConflict, "INBOX", "a", "b", "d");
        {
            let mut report = Report::open(dir.path(), group, epoch).unwrap();
            let both = [brought.clone(), conflict.clone()];
            assert_eq!(report.add("u", &both, 1).unwrap(), both);
            assert!(report.add("u", &both, 2).unwrap().is_empty());
        }
        let file = dir.path().join("3-7.jsonl");
        let mut cut = std::fs::read(&file).unwrap();
        cut.extend_from_slice(b"{\"wall_ns\":3,\"acc");
        std::fs::write(&file, cut).unwrap();
        let mut report = Report::open(dir.path(), group, epoch).unwrap();
        assert_eq!(report.count("u"), Count { brought: 1, conflicts: 1 });
        assert!(report.add("u", std::slice::from_ref(&conflict), 4).unwrap().is_empty());
        assert_eq!(report.add("v", std::slice::from_ref(&conflict), 5).unwrap().len(), 1);
        let lines = read(dir.path(), group, epoch).unwrap();
        assert_eq!(lines.iter().map(|line| line.account.as_str()).collect::<Vec<_>>(), ["u", "u", "v"]);
        assert_eq!(lines[0].finding, brought);
        assert!(read(dir.path(), GroupId(9), epoch).unwrap().is_empty());
    }

    #[test]
    fn a_name_is_two_numbers() {
        assert_eq!(parse(&name(GroupId(3), Epoch(7))), Some((GroupId(3), Epoch(7))));
        for other in ["", "3", "3-", "-7", "../3-7", "3-7.jsonl", "3-7-1", "3/7"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
