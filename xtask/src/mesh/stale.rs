//! Meshes of trials that were killed together with their owner: found by their folders, and taken away.
//!
//! Owns: which folder is such a one. What can hurt: a folder of that name that somebody else made in the folder for
//! temporary files that all share; only our own user's count. Refuses: a trial whose starter still runs.

use super::contract::Format;
use super::down;
use super::plan::{NODES_MAX, Plan};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use understudy_tests::mesh::TRIAL_PREFIX;

/// Takes away what killed trials left, and says so.
pub(crate) fn take_away_stale() {
    for dir in stale(&std::env::temp_dir()) {
        down::end_owner(&dir);
        let left = down::take_away(&Plan::new(&dir, NODES_MAX, 0, Format::Maildir), true, true);
        match left.is_empty() {
            true => eprintln!("removed what a killed run left: `{}`", dir.display()),
            false => eprintln!("a killed run left, and it could not be removed: {}", left.join(", ")),
        }
    }
}

/// Folders of trials of ours in `folder` whose starter is gone.
fn stale(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let gone = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let pid = name.strip_prefix(TRIAL_PREFIX).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let ours = |path: &PathBuf| {
        std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw())
    };
    entries.map(|e| e.path()).filter(|path| gone(path) && ours(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trial_whose_starter_is_gone_is_stale() {
        let folder = std::env::temp_dir().join(format!("understudy-stale-{}", std::process::id()));
        let gone = format!("{TRIAL_PREFIX}{}-0", u32::MAX); // past every process number
        let here = format!("{TRIAL_PREFIX}{}-0", std::process::id());
        for name in [&gone, &here, &format!("{TRIAL_PREFIX}x-0"), &"understudy-other-4294967295-0".to_owned()] {
            std::fs::create_dir_all(folder.join(name)).expect("folder");
        }
        std::os::unix::fs::symlink("/", folder.join(format!("{TRIAL_PREFIX}{}-1", u32::MAX))).expect("link");
        assert_eq!(stale(&folder), [folder.join(gone)]);
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
