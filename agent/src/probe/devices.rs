//! Which block devices hold a path, down to the whole disks that requests go to.
//!
//! Owns: the walk from a file system's device through partitions and stacked devices (dm, md, loop's own device).
//! Refuses: file systems without a block device (overlay, network, tmpfs); they are named as unobserved.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Stacked devices are followed this deep.
const STACK_MAX: u32 = 8;

/// A device number as the kernel holds it: major in the upper 12 bits, minor in the lower 20.
#[must_use]
pub fn kernel_number(major: u32, minor: u32) -> u32 {
    (major << 20) | (minor & 0xf_ffff)
}

/// The devices that hold `path`.
///
/// # Errors
/// A sentence for the administrator, when there is no block device to observe.
pub fn of_path(path: &Path) -> Result<BTreeSet<u32>, String> {
    let device = fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mut found = BTreeSet::new();
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    match fs::canonicalize(&link) {
        Ok(folder) => collect(&folder, STACK_MAX, &mut found),
        Err(_) => return Err(format!("`{}` is on no block device (device {major}:{minor})", path.display())),
    }
    if found.is_empty() {
        return Err(format!("`{}`: no disk found under `{}`", path.display(), link.display()));
    }
    Ok(found)
}

fn collect(folder: &Path, depth: u32, found: &mut BTreeSet<u32>) {
    let whole = if folder.join("partition").exists() { folder.parent().unwrap_or(folder) } else { folder };
    if let Some(number) = fs::read_to_string(whole.join("dev")).ok().and_then(|text| parse_number(&text)) {
        found.insert(number);
    }
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(whole.join("slaves")).into_iter().flatten().flatten() {
        if let Ok(below) = fs::canonicalize(entry.path()) {
            collect(&below, depth - 1, found);
        }
    }
}

fn parse_number(text: &str) -> Option<u32> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(kernel_number(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_packed_as_the_kernel_packs_them() {
        assert_eq!(parse_number("254:16\n"), Some(254 << 20 | 16));
        assert_eq!(parse_number("x"), None);
    }

    #[test]
    fn a_pseudo_file_system_has_no_device() {
        assert!(of_path(Path::new("/proc")).is_err());
        assert!(of_path(Path::new("/nonexistent")).is_err());
    }
}
