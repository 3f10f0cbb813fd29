//! Every queue, batch, window, file and retry of the agent has its bound here, with a unit, and says what
//! happens past it. Limits that belong to a byte layout live beside that layout in `understudy-types`.

/// Uncompressed bytes of operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_OPS_MAX: usize = 4096;

/// Bytes of one message body. A larger one is refused by central storage and its account is parked, with the reason.
pub const BLOB_BYTES_MAX: u64 = 512 << 20;
/// Bodies that one look at the spool takes up. The rest waits for the next look.
pub const SPOOL_FILES_MAX: usize = 100_000;
/// Threads that move bodies from the spool to central storage.
pub const UPLOADERS: usize = 4;
/// First wait before a failed upload is tried again, in milliseconds; doubles up to [`UPLOAD_RETRY_MS_MAX`].
pub const UPLOAD_RETRY_MS_MIN: u64 = 20;
/// Longest wait between two tries of an upload, in milliseconds. Tries never end: the spool keeps the body.
pub const UPLOAD_RETRY_MS_MAX: u64 = 5_000;

/// Messages of one account whose newest flags a replica remembers. The oldest is forgotten past it.
pub const FILTER_FLAGS_MAX: usize = 16_384;
/// Expunged messages of one account that a replica remembers. The oldest is forgotten past it.
pub const FILTER_TOMBSTONES_MAX: usize = 65_536;
/// Deleted mailboxes of one account that a replica remembers. The oldest is forgotten past it.
pub const FILTER_MAILBOXES_MAX: usize = 4_096;
/// First wait before a parked account is tried again, in milliseconds; doubles up to [`PARK_RETRY_MS_MAX`].
pub const PARK_RETRY_MS_MIN: u64 = 5;
/// Longest wait between two tries of a parked account, in milliseconds. Tries never end.
pub const PARK_RETRY_MS_MAX: u64 = 5_000;
/// How long an account may wait for a body before it counts as set aside, in milliseconds: a body and the operation
/// that names it travel by different ways, and either may be the first.
pub const BODY_GRACE_MS: u64 = 2_000;
/// Longest wait for a snapshot that was asked for, in milliseconds. Past it, it is asked for again.
pub const RESYNC_ASK_MS: u64 = 10_000;
/// Bytes of frames that an apply worker reads at once.
pub const APPLY_READ_BYTES: usize = 1 << 20;
/// Operations that are sent to the store at once. More go in several requests.
pub const APPLY_OPS_MAX: usize = 256;
/// Operations before the cursor that are looked at after a restart, to know the newest flags again.
pub const APPLY_REMEMBER_OPS: u64 = 2_000;
/// Frames that wait for the journal's thread. Past it `Journal::append` gives the frame back (`Busy`).
pub const JOURNAL_QUEUE_FRAMES_MAX: usize = 4096;
/// Answers of the journal that wait for their reader. Past it the journal's thread waits, and its queue fills.
pub const JOURNAL_EVENTS_MAX: usize = 65_536;
/// Plans that bring one account to its snapshot. Past it the account is parked with the difference that is left.
pub const PLAN_ROUNDS_MAX: usize = 24;
/// Processes of the store whose /proc files are read each second. Past it the rest is counted as unread.
pub const PROC_TREE_READ_MAX: usize = 1024;
/// Calls in flight that one look asks what they wait for. Past it they do not count as work.
pub const STALL_ASKED_MAX: usize = 64;
/// Samples of the probe that wait for their reader. Past it the newest is dropped and counted.
pub const PROBE_SAMPLES_MAX: usize = 8;
/// Kernel events that wait for their reader. Past it the newest is dropped and counted.
pub const PROBE_EVENTS_MAX: usize = 4096;
/// How often a replica's cursor is made durable, in milliseconds. A crash of the host repeats at most so much.
pub const CURSOR_DURABLE_MS: u64 = 200;
/// Accounts of one group whose recent operations a replica remembers. Past it all are forgotten and learnt anew.
pub const FILTER_ACCOUNTS_MAX: usize = 50_000;
/// How long an apply worker sleeps when it has nothing to do and is not woken, in milliseconds.
pub const APPLY_IDLE_MS: u64 = 1_000;
/// How long an apply worker waits after the store could not be asked, in milliseconds.
pub const APPLY_STORE_RETRY_MS: u64 = 100;
