//! What the kernel programs and the agent share: histogram rows, task and block-request state, events.
//!
//! Owns: the layout of every value in the kernel maps (`repr(C)`, fixed-width fields, no implicit padding, sizes
//! asserted below) and the arithmetic of the buckets. Both sides run on one machine, so fields are in its byte
//! order; the agent decodes them from bytes and never casts. What can hurt: an agent that loads an object of
//! another layout, hence [`LAYOUT_VERSION`], which the agent compares before it attaches anything. Refuses: policy.
//! Nothing here says which value is bad.

/// Rises with any change in this file; the object carries it as a global and the agent compares.
pub const LAYOUT_VERSION: u32 = 1;

/// Buckets of one histogram: log2 with four sub-buckets, up to 2^41 ns (36 minutes); longer goes into the last.
pub const BUCKETS: usize = 160;
/// Words of one histogram row: the sum in nanoseconds, then the buckets.
pub const HISTOGRAM_WORDS: usize = BUCKETS + 1;
/// Error counters of one row: errno 1 to 132 at its own index; anything higher counts at [`ERRNO_OTHER`].
pub const ERRNOS: usize = 134;
/// Where an error number outside 1..=132 is counted.
pub const ERRNO_OTHER: usize = ERRNOS - 1;
/// System-call numbers that can have a class; a higher number is not measured.
pub const SYSCALLS_MAX: usize = 512;

/// Tracked processes. Past it a new child is not followed and [`Lost::Tracked`] counts it.
pub const TRACKED_MAX: u32 = 8192;
/// Tracked threads. Past it a thread is not measured and [`Lost::Task`] counts it.
pub const TASKS_MAX: u32 = 16384;
/// Block requests in flight. Past it a request is not timed and [`Lost::Block`] counts it.
pub const BLOCK_IN_FLIGHT_MAX: u32 = 8192;
/// Devices of the store. Past it the agent names the device as unobserved.
pub const DEVICES_MAX: u32 = 64;
/// Bytes of the event ring buffer. When it is full an event is dropped and [`Lost::Event`] counts it.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// One row of the histogram map and of the error map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Row {
    /// `read` and its kin.
    Read = 1,
    /// `write` and its kin, `sendfile`, `splice`, `copy_file_range`.
    Write = 2,
    /// `fsync`, `fdatasync`, `sync_file_range`, `syncfs`, `msync`.
    Fsync = 3,
    /// `open`, `openat`, `openat2`, `creat`.
    Open = 4,
    /// Changes of names: `rename`, `link`, `symlink`, `unlink`, `mkdir`, `rmdir`.
    Name = 5,
    /// Questions about files: `stat` and kin, `access`, `getdents`, `readlink`.
    Lookup = 6,
    /// `truncate`, `fallocate`.
    Resize = 7,
    /// `flock`, `fcntl`.
    Lock = 8,
    /// `connect`, `send*`, `recv*`.
    Net = 9,
    /// `accept`, `accept4`: idle.
    Accept = 10,
    /// `poll`, `epoll_wait`, `select`, `futex`, sleeps, `wait4`: idle.
    Wait = 11,
    /// From runnable to running.
    RunQueue = 12,
    /// Off the processor in an interruptible (or idle) sleep.
    OffCpuSleep = 13,
    /// Off the processor in an uninterruptible sleep.
    OffCpuDisk = 14,
    /// Block reads, issue to completion.
    BlockRead = 15,
    /// Block writes.
    BlockWrite = 16,
    /// Block flushes.
    BlockFlush = 17,
    /// Discards and whatever else a device is asked.
    BlockOther = 18,
}

/// Rows in the histogram and error maps; row 0 is not used (class 0 means "not measured").
pub const ROWS: u32 = 19;

impl Row {
    /// Every row, in order of its number.
    pub const ALL: [Self; 18] = [
        Self::Read,
        Self::Write,
        Self::Fsync,
        Self::Open,
        Self::Name,
        Self::Lookup,
        Self::Resize,
        Self::Lock,
        Self::Net,
        Self::Accept,
        Self::Wait,
        Self::RunQueue,
        Self::OffCpuSleep,
        Self::OffCpuDisk,
        Self::BlockRead,
        Self::BlockWrite,
        Self::BlockFlush,
        Self::BlockOther,
    ];

    /// The row of this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        number.checked_sub(1).and_then(|index| Self::ALL.get(index as usize)).copied()
    }

    /// The name that metrics, `top` and logs use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Fsync => "fsync",
            Self::Open => "open",
            Self::Name => "name",
            Self::Lookup => "lookup",
            Self::Resize => "resize",
            Self::Lock => "lock",
            Self::Net => "net",
            Self::Accept => "accept",
            Self::Wait => "wait",
            Self::RunQueue => "run_queue",
            Self::OffCpuSleep => "off_cpu_sleep",
            Self::OffCpuDisk => "off_cpu_disk",
            Self::BlockRead => "block_read",
            Self::BlockWrite => "block_write",
            Self::BlockFlush => "block_flush",
            Self::BlockOther => "block_other",
        }
    }

    /// A system call of this class does no work while it waits: its age in flight says nothing.
    #[must_use]
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Accept | Self::Wait)
    }

    /// A class of system calls (not the scheduler, not a device).
    #[must_use]
    pub const fn is_syscall(self) -> bool {
        (self as u32) <= (Self::Wait as u32)
    }
}

/// What was lost, counted per processor in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Lost {
    /// The event ring buffer was full.
    Event = 0,
    /// The thread map was full.
    Task = 1,
    /// The process map was full: a child is not followed.
    Tracked = 2,
    /// The block-request map was full.
    Block = 3,
    /// A field of a kernel structure could not be read.
    Unreadable = 4,
}

/// Counters in the loss map.
pub const LOSTS: u32 = 5;

impl Lost {
    /// Every kind, in order of its number.
    pub const ALL: [Self; LOSTS as usize] = [Self::Event, Self::Task, Self::Tracked, Self::Block, Self::Unreadable];

    /// The name that metrics and `top` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Task => "task",
            Self::Tracked => "process",
            Self::Block => "block",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The bucket of a duration.
#[must_use]
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns < 4 {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    if exponent > 40 {
        return BUCKETS - 1;
    }
    let sub = (ns >> (exponent - 2)) & 3;
    ((exponent as usize) - 1) * 4 + sub as usize
}

/// The largest duration of a bucket, in nanoseconds; the last bucket is open and answers with its lower edge
/// plus its nominal width.
#[must_use]
pub const fn bucket_ns_max(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let bucket = if bucket < BUCKETS { bucket } else { BUCKETS - 1 };
    let exponent = (bucket / 4 + 1) as u32;
    let sub = (bucket % 4) as u64;
    (1u64 << exponent) + ((sub + 1) << (exponent - 2)) - 1
}

/// A tracked thread, keyed by its id. Written by the thread itself, except `runnable_at_ns` (by its waker).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskState {
    /// When it became runnable; 0 when it is not waiting for a processor.
    pub runnable_at_ns: u64,
    /// When it left the processor to sleep; 0 when it did not.
    pub off_at_ns: u64,
    /// When it entered the system call it is in; 0 when it is in none that is measured.
    pub entered_at_ns: u64,
    /// First argument of that call: the file descriptor of reads, writes and socket calls.
    pub argument: u64,
    /// Its process.
    pub tgid: u32,
    /// Number of that call.
    pub syscall: u32,
    /// Class of that call, a [`Row`] number.
    pub class: u32,
    /// 1 when the sleep is uninterruptible.
    pub off_disk: u32,
}

/// Bytes of [`TaskState`].
pub const TASK_STATE_BYTES: usize = 48;
const _: () = assert!(size_of::<TaskState>() == TASK_STATE_BYTES, "no implicit padding");

impl TaskState {
    /// Decodes a map value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; TASK_STATE_BYTES]) -> Self {
        Self {
            runnable_at_ns: word(bytes, 0),
            off_at_ns: word(bytes, 8),
            entered_at_ns: word(bytes, 16),
            argument: word(bytes, 24),
            tgid: half(bytes, 32),
            syscall: half(bytes, 36),
            class: half(bytes, 40),
            off_disk: half(bytes, 44),
        }
    }
}

/// A block request in flight, keyed by the kernel's own request (one request is in flight once).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockState {
    /// When it was issued to the device.
    pub issued_at_ns: u64,
    /// First sector.
    pub sector: u64,
    /// Device number as the kernel holds it: major in the upper 12 bits, minor in the lower 20.
    pub device: u32,
    /// Its [`Row`] number.
    pub row: u32,
}

/// Bytes of [`BlockState`].
pub const BLOCK_STATE_BYTES: usize = 24;
const _: () = assert!(size_of::<BlockState>() == BLOCK_STATE_BYTES, "no implicit padding");

impl BlockState {
    /// Decodes a map value.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; BLOCK_STATE_BYTES]) -> Self {
        Self { issued_at_ns: word(bytes, 0), sector: word(bytes, 8), device: half(bytes, 16), row: half(bytes, 20) }
    }
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A tracked process ended. `number`: exit status in bits 8 to 15, signal in bits 0 to 6.
    Exit = 1,
    /// A signal was raised for a tracked process. `number`: signal, `other`: sender's process, `code`: si_code.
    Signal = 2,
    /// The kernel chose a victim for lack of memory. `other`: 1 when it is a tracked process.
    OomKill = 3,
    /// A device of the store failed a request. `value`: sector, `number`: device, `other`: block status.
    BlockError = 4,
    /// A tracked process has a new child process. `other`: the parent.
    Fork = 5,
}

impl EventKind {
    /// The kind of this number, if it is known.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Exit,
            2 => Self::Signal,
            3 => Self::OomKill,
            4 => Self::BlockError,
            5 => Self::Fork,
            _ => return None,
        })
    }
}

/// One event of the ring buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Monotonic time.
    pub at_ns: u64,
    /// Depends on the kind.
    pub value: u64,
    /// An [`EventKind`] number.
    pub kind: u32,
    /// The process concerned.
    pub tgid: u32,
    /// The thread concerned.
    pub tid: u32,
    /// Depends on the kind.
    pub number: u32,
    /// Depends on the kind.
    pub other: u32,
    /// Depends on the kind.
    pub code: i32,
    /// Name of the thread that was running when the event was written, padded with zeros.
    pub comm: [u8; 16],
}

/// Bytes of [`Event`].
pub const EVENT_BYTES: usize = 56;
const _: () = assert!(size_of::<Event>() == EVENT_BYTES, "no implicit padding");

impl Event {
    /// Decodes a ring-buffer item. `None` if it has another length or an unknown kind.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<(EventKind, Self)> {
        let bytes: &[u8; EVENT_BYTES] = bytes.try_into().ok()?;
        let mut comm = [0; 16];
        comm.copy_from_slice(&bytes[40..56]);
        let event = Self {
            at_ns: word(bytes, 0),
            value: word(bytes, 8),
            kind: half(bytes, 16),
            tgid: half(bytes, 20),
            tid: half(bytes, 24),
            number: half(bytes, 28),
            other: half(bytes, 32),
            code: i32::from_ne_bytes(half(bytes, 36).to_ne_bytes()),
            comm,
        };
        Some((EventKind::from_number(event.kind)?, event))
    }
}

/// Where fields lie in this kernel's structures, in bytes. The agent reads them from the kernel's type
/// information when it loads the programs, since the compiler emits no relocations for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`
    pub task_pid: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `request.q`
    pub request_queue: u32,
    /// `request.cmd_flags`
    pub request_flags: u32,
    /// `request.__sector`
    pub request_sector: u32,
    /// `request.__data_len`
    pub request_bytes: u32,
    /// `request_queue.disk`
    pub queue_disk: u32,
    /// `gendisk.major`
    pub disk_major: u32,
    /// `gendisk.first_minor`
    pub disk_minor: u32,
    /// First system-call argument in `pt_regs`.
    pub regs_argument: u32,
    /// 1 when `mark_victim` passes the task (Linux 6.8 and later), 0 when it passes the thread id.
    pub victim_is_task: u32,
}

/// Words of [`Offsets`], all of 32 bits.
pub const OFFSET_WORDS: usize = 14;
const _: () = assert!(size_of::<Offsets>() == OFFSET_WORDS * 4, "no implicit padding");

impl Offsets {
    /// The same as an array, as it is handed to the kernel programs.
    #[must_use]
    pub const fn words(&self) -> [u32; OFFSET_WORDS] {
        [
            self.task_pid,
            self.task_tgid,
            self.task_exit_code,
            self.task_signal,
            self.signal_live,
            self.request_queue,
            self.request_flags,
            self.request_sector,
            self.request_bytes,
            self.queue_disk,
            self.disk_major,
            self.disk_minor,
            self.regs_argument,
            self.victim_is_task,
        ]
    }
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(out)
}

fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_their_edges_are_exact() {
        for index in 0..BUCKETS - 1 {
            let top = bucket_ns_max(index);
            assert_eq!(bucket(top), index, "upper edge of {index}");
            assert_eq!(bucket(top + 1), index + 1, "lower edge of {}", index + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_wide() {
        for index in 8..BUCKETS - 1 {
            let low = bucket_ns_max(index - 1) + 1;
            let width = bucket_ns_max(index) - low + 1;
            assert!(width * 4 <= low, "bucket {index}: {width} from {low}");
        }
    }

    #[test]
    fn rows_and_losses_count_as_their_numbers_say() {
        for (index, row) in Row::ALL.iter().enumerate() {
            assert_eq!(*row as usize, index + 1);
            assert_eq!(Row::from_number(*row as u32), Some(*row));
        }
        assert_eq!(Row::ALL.len() + 1, ROWS as usize);
        assert_eq!(Row::from_number(0), None);
        assert_eq!(Row::from_number(ROWS), None);
        for (index, lost) in Lost::ALL.iter().enumerate() {
            assert_eq!(*lost as usize, index);
        }
    }

    #[test]
    fn an_event_of_another_length_or_kind_is_refused() {
        let mut bytes = [0u8; EVENT_BYTES];
        assert!(Event::from_bytes(&bytes).is_none(), "kind 0");
        bytes[16..20].copy_from_slice(&2u32.to_ne_bytes());
        bytes[28..32].copy_from_slice(&9u32.to_ne_bytes());
        let (kind, event) = Event::from_bytes(&bytes).expect("a valid event");
        assert_eq!((kind, event.number), (EventKind::Signal, 9));
        assert!(Event::from_bytes(&bytes[..55]).is_none());
        assert!(Event::from_bytes(&[0; 57]).is_none());
    }
}
