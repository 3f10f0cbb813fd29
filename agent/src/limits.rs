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
