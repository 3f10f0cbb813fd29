//! The rules that a frame's header can break, each with what was found.
//!
//! Owns: the names of the rules. Refuses: judging; that is `FrameHeader::decode`.

/// The rule that a header breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameInvalid {
    #[error("frame header is cut short: {have} bytes, {need} needed")]
    Short { have: usize, need: usize },
    #[error("frame does not begin with its magic but with `{0:02x?}`")]
    Magic([u8; 8]),
    #[error("frame header has version `{0}`, which this version cannot read; upgrade this node")]
    Version(u16),
    #[error("frame header says it is `{0}` bytes long")]
    HeaderLength(u16),
    #[error("frame header's checksum is `{is:#010x}`, header says `{said:#010x}`")]
    HeaderChecksum { said: u32, is: u32 },
    #[error("frame header has unknown flags `{0:#x}`")]
    Flags(u32),
    #[error("reserved byte {at} of the frame header is not zero")]
    Reserved { at: usize },
    #[error("frame is stored with unknown codec `{0}`; upgrade this node")]
    Codec(u8),
    #[error("frame of codec `{codec}` names dictionary `{id}`")]
    Dictionary { codec: u8, id: u32 },
    #[error("frame names origin node `{0}`, out of range")]
    Node(u16),
    #[error("frame says it holds `{0}` operations")]
    Count(u32),
    #[error("frame says its body is `{0}` bytes long")]
    BodyLength(u32),
    #[error("frame says its body is `{0}` bytes long uncompressed")]
    UncompressedLength(u32),
    #[error("raw frame of `{body}` bytes says it has `{uncompressed}` bytes uncompressed")]
    RawLength { body: u32, uncompressed: u32 },
    #[error("frame has first sequence `{0}`, out of range")]
    Sequence(u64),
    #[error("first frame of a group names a frame before it")]
    FirstHasPrevious,
    #[error("frame has epoch `{0}`, out of range")]
    Epoch(u64),
    #[error("frame's ring positions make no sense: generation `{generation}`, from `{first}` to `{last}`")]
    Ring { generation: u64, first: u64, last: u64 },
}
