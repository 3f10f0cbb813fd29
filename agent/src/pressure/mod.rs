//! Pressure of the node and of the store, and what is left of the store's disk.
//!
//! Owns: reading the kernel's pressure files (PSI) and `statvfs`. What can hurt: a kernel without PSI, or booted
//! without it: [`PressureState::NotSupported`] is a state of its own, not zeros. Refuses: the kernel's own averages;
//! they lag by ten seconds, so the difference of `total` is taken instead.

mod group;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::clock::MonoNs;

pub use self::group::group_of;

/// What waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Processor.
    Cpu,
    /// Input and output.
    Io,
    /// Memory.
    Memory,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Cpu, Self::Io, Self::Memory];

    fn file(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Io => "io",
            Self::Memory => "memory",
        }
    }
}

/// Why there are no pressure figures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PressureNotSupported {
    /// The kernel has no PSI, or it is off.
    #[error("`{path}`: {reason}; boot a kernel with CONFIG_PSI and `psi=1`")]
    Kernel {
        /// The file.
        path: String,
        /// What the kernel says.
        reason: String,
    },
    /// The store has no control group of its own.
    #[error("the store has no control group of its own ({reason}); start it as a systemd service")]
    Group {
        /// What was found.
        reason: String,
    },
}

/// Share of the time between two readings in which tasks waited, in permille.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Some task waited.
    pub some_permille: u16,
    /// Every task that was not idle waited; `None` where the kernel does not say.
    pub full_permille: Option<u16>,
}

/// Pressure of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// Processor.
    pub cpu: Waited,
    /// Input and output.
    pub io: Waited,
    /// Memory.
    pub memory: Waited,
}

/// Pressure, or why there is none to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PressureState {
    /// First reading: there is no difference yet.
    Pending,
    /// Figures.
    Known(Pressure),
    /// None, and why.
    NotSupported(PressureNotSupported),
}

impl PressureState {
    /// The figures, if there are any.
    #[must_use]
    pub fn known(&self) -> Option<Pressure> {
        match self {
            Self::Known(pressure) => Some(*pressure),
            Self::Pending | Self::NotSupported(_) => None,
        }
    }
}

/// What is left of the store's file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes that the store may still use.
    pub free_bytes: u64,
    /// Inodes in all; 0 where the file system makes them as needed.
    pub inodes: u64,
    /// Inodes left.
    pub free_inodes: u64,
    /// Mounted read-only, as a file system is after an error.
    pub is_read_only: bool,
}

/// One second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureSample {
    /// The whole node.
    pub node: PressureState,
    /// The store's control group.
    pub store: PressureState,
    /// The store's file system; `None` when it cannot be asked.
    pub space: Option<Space>,
}

/// Microseconds since boot in which tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    some_us: u64,
    full_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    at: MonoNs,
    totals: [Totals; 3],
}

/// Reads once a second and keeps what differences need.
#[derive(Debug)]
pub struct PressureReader {
    node: Scope,
    store: Scope,
    store_pid: Option<u32>,
    store_path: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Scope {
    /// `None`: not found, with the reason.
    files: Option<Result<[PathBuf; 3], PressureNotSupported>>,
    before: Option<Reading>,
}

impl PressureReader {
    /// For the store with this master process and this folder.
    #[must_use]
    pub fn new(store_pid: Option<u32>, store_path: Option<PathBuf>) -> Self {
        let node = Resource::ALL.map(|resource| Path::new("/proc/pressure").join(resource.file()));
        let node = Scope { files: Some(Ok(node)), before: None };
        let mut reader = Self { node, store: Scope::default(), store_pid: None, store_path };
        reader.set_store_pid(store_pid);
        reader
    }

    /// The store was started again: its control group may be another.
    pub fn set_store_pid(&mut self, pid: Option<u32>) {
        self.store_pid = pid;
        self.store = Scope::default();
    }

    /// Reads. `now` is when.
    pub fn read(&mut self, now: MonoNs) -> PressureSample {
        if self.store.files.is_none() {
            // Asked again each second until the process is there.
            let found = match self.store_pid {
                Some(pid) => group_of(pid)
                    .map(|folder| Resource::ALL.map(|resource| folder.join(format!("{}.pressure", resource.file())))),
                None => Err(PressureNotSupported::Group { reason: "no process is known".to_owned() }),
            };
            match found {
                Ok(files) => self.store.files = Some(Ok(files)),
                Err(reason) => {
                    let store = PressureState::NotSupported(reason);
                    return PressureSample { node: self.node.read(now), store, space: self.space() };
                }
            }
        }
        PressureSample { node: self.node.read(now), store: self.store.read(now), space: self.space() }
    }

    fn space(&self) -> Option<Space> {
        let told = nix::sys::statvfs::statvfs(self.store_path.as_ref()?).ok()?;
        let unit = told.fragment_size();
        Some(Space {
            bytes: told.blocks().saturating_mul(unit),
            free_bytes: told.blocks_available().saturating_mul(unit),
            inodes: told.files(),
            free_inodes: told.files_available(),
            is_read_only: told.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
        })
    }
}

impl Scope {
    fn read(&mut self, now: MonoNs) -> PressureState {
        let files = match &self.files {
            Some(Ok(files)) => files,
            Some(Err(reason)) => return PressureState::NotSupported(reason.clone()),
            None => return PressureState::Pending,
        };
        let mut totals = [Totals::default(); 3];
        for (path, totals) in files.iter().zip(&mut totals) {
            match fs::read_to_string(path).map(|text| parse(&text)) {
                Ok(Some(read)) => *totals = read,
                Ok(None) => return self.none(path.clone(), "not in the format of PSI".to_owned()),
                // The group is gone with the store, or the kernel has no PSI (or refuses to read it: EOPNOTSUPP).
                Err(error) => return self.none(path.clone(), error.to_string()),
            }
        }
        let after = Reading { at: now, totals };
        match self.before.replace(after) {
            Some(before) => between(&before, &after).map_or(PressureState::Pending, PressureState::Known),
            None => PressureState::Pending,
        }
    }

    fn none(&mut self, path: PathBuf, reason: String) -> PressureState {
        self.before = None;
        PressureState::NotSupported(PressureNotSupported::Kernel { path: path.display().to_string(), reason })
    }
}

/// The shares between two readings; `None` when no time passed.
fn between(before: &Reading, after: &Reading) -> Option<Pressure> {
    let window_us = after.at.since_ns(before.at) / 1000;
    if window_us == 0 {
        return None;
    }
    let share = |before: u64, after: u64| {
        let permille = after.saturating_sub(before).saturating_mul(1000) / window_us;
        u16::try_from(permille.min(1000)).unwrap_or(1000)
    };
    let waited = |index: usize| Waited {
        some_permille: share(before.totals[index].some_us, after.totals[index].some_us),
        full_permille: before.totals[index].full_us.zip(after.totals[index].full_us).map(|(b, a)| share(b, a)),
    };
    Some(Pressure { cpu: waited(0), io: waited(1), memory: waited(2) })
}

/// `some avg10=… total=N`, and perhaps a line `full …`.
fn parse(text: &str) -> Option<Totals> {
    let mut totals = Totals::default();
    let mut has_some = false;
    for line in text.lines() {
        let total = line.split_ascii_whitespace().find_map(|field| field.strip_prefix("total="))?.parse().ok()?;
        match line.split_ascii_whitespace().next()? {
            "some" => {
                totals.some_us = total;
                has_some = true;
            }
            "full" => totals.full_us = Some(total),
            _ => {}
        }
    }
    has_some.then_some(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_with_and_without_full() {
        let both = "some avg10=1.00 avg60=0.00 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(parse(both), Some(Totals { some_us: 42, full_us: Some(7) }));
        let some = both.lines().next().expect("a line");
        assert_eq!(parse(some), Some(Totals { some_us: 42, full_us: None }));
        for bad in ["", "some total=x", "full total=3", "garbage"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_are_of_the_real_window() {
        let mut before = Reading { at: MonoNs(1_000_000_000), totals: [Totals::default(); 3] };
        before.totals[1] = Totals { some_us: 500, full_us: Some(100) };
        let mut after = Reading { at: MonoNs(3_000_000_000), totals: [Totals::default(); 3] };
        after.totals[1] = Totals { some_us: 1_000_500, full_us: Some(200_100) };
        let seen = between(&before, &after).expect("time passed");
        assert_eq!(seen.io, Waited { some_permille: 500, full_permille: Some(100) });
        assert_eq!(seen.cpu, Waited { some_permille: 0, full_permille: None });
        assert_eq!(between(&after, &after), None);
    }

    #[test]
    fn a_missing_file_is_a_state_and_not_a_figure() {
        let gone = Scope { files: Some(Ok([(); 3].map(|()| PathBuf::from("/nonexistent/cpu")))), before: None };
        let PressureState::NotSupported(PressureNotSupported::Kernel { path, .. }) = { gone }.read(MonoNs(1)) else {
            panic!("not refused");
        };
        assert_eq!(path, "/nonexistent/cpu");
    }

    #[test]
    fn this_machine_is_read_or_says_why_not() {
        let mut reader = PressureReader::new(Some(std::process::id()), Some(PathBuf::from("/")));
        let first = reader.read(MonoNs(1_000_000_000));
        let second = reader.read(MonoNs(2_000_000_000));
        assert_ne!(second.node, PressureState::Pending);
        assert!(first.space.is_some_and(|space| space.bytes > 0 && space.free_bytes <= space.bytes));
    }
}
