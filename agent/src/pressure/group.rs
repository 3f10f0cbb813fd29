//! The control group (version 2) of a process, as a folder of this machine.
//!
//! Owns: `/proc/PID/cgroup` and the search for the mount in `/proc/self/mountinfo`. Refuses: version 1 (it has no
//! pressure files) and the root group (its pressure is the node's).

use std::fs;
use std::path::PathBuf;

use super::PressureNotSupported;

/// The folder of the group.
///
/// # Errors
/// When the process is gone, or has no group of version 2 of its own.
pub fn group_of(pid: u32) -> Result<PathBuf, PressureNotSupported> {
    let refuse = |reason: String| PressureNotSupported::Group { reason };
    let read = |path: String| fs::read_to_string(&path).map_err(|error| refuse(format!("`{path}`: {error}")));
    let groups = read(format!("/proc/{pid}/cgroup"))?;
    let mounts = read("/proc/self/mountinfo".to_owned())?;
    find(&groups, &mounts).map_err(|reason| refuse(reason.to_owned()))
}

fn find(groups: &str, mounts: &str) -> Result<PathBuf, &'static str> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no group of version 2")?;
    if path == "/" {
        return Err("it runs in the root group");
    }
    if path.split('/').any(|part| part == "..") {
        return Err("its group is outside of this agent's name space");
    }
    for line in mounts.lines() {
        // "ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS [more] - TYPE SOURCE OPTIONS"
        let Some((left, right)) = line.split_once(" - ") else { continue };
        if right.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(mountpoint)) = (fields.next(), fields.next()) else { continue };
        let inside = if root == "/" { Some(path) } else { path.strip_prefix(root) };
        if let Some(inside) = inside {
            return Ok(PathBuf::from(mountpoint).join(inside.trim_start_matches('/')));
        }
    }
    Err("no mount shows it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                          41 30 0:37 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_folder_is_found_below_the_mount() {
        let groups = "4:memory:/x\n0::/system.slice/dovecot.service\n";
        let expected = PathBuf::from("/sys/fs/cgroup/unified/system.slice/dovecot.service");
        assert_eq!(find(groups, MOUNTS), Ok(expected));
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_counts_from_there() {
        let mounts = "41 30 0:37 /box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find("0::/box/store\n", mounts), Ok(PathBuf::from("/sys/fs/cgroup/store")));
        assert!(find("0::/other\n", mounts).is_err());
    }

    #[test]
    fn the_root_group_and_version_1_are_refused() {
        assert!(find("0::/\n", MOUNTS).is_err());
        assert!(find("4:memory:/x\n", MOUNTS).is_err());
        assert!(find("0::/../x\n", MOUNTS).is_err());
        assert!(find("0::/x\n", "").is_err());
    }
}
