//! Every queue, batch, window, file and retry of the agent has its bound here, with a unit, and says what
//! happens past it. Limits that belong to a byte layout live beside that layout in `understudy-types`.

/// Uncompressed bytes of operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Operations in one batch. Past it the batch is sealed and a new one begun.
pub const BATCH_OPS_MAX: usize = 4096;
