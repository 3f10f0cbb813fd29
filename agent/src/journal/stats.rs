//! What a journal says about itself.

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// `io_uring` or `plain`.
    pub backend: &'static str,
    /// False where the file system refuses O_DIRECT.
    pub direct: bool,
    pub segments: u64,
    /// Bytes of all segment files, spare ones included.
    pub segment_bytes: u64,
    /// Since opening.
    pub frames: u64,
    pub frame_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    /// Time from the submission of a write to the return of its fdatasync.
    pub sync_p50_ns: u64,
    pub sync_p99_ns: u64,
    pub sync_max_ns: u64,
    /// Frames that wait to be written.
    pub queued_frames: usize,
    /// Set when the journal has failed.
    pub failed: Option<String>,
}
