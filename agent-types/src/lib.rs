//! Every byte layout that another program, process, node or later version depends on.
//!
//! Owns: ids and positions (`id`), operations (`op`), the ring's layout (`ring`), frames (`frame`), journal segments
//! (`segment`), messages between agents (`message`), kernel events (`probe`), beats (`beat`), and the limits that
//! belong to a format.
//! Refuses: unsafe code, the standard library, and anything that decides. Layouts are little-endian; a
//! decoder takes hostile bytes and answers with a value or with an error that names the place.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "checksum")]
extern crate alloc;

// The kernel programs have neither an allocator nor checksums: without the feature they see `probe` alone.
#[cfg(feature = "checksum")]
pub mod beat;
#[cfg(feature = "checksum")]
pub mod frame;
#[cfg(feature = "checksum")]
pub mod id;
#[cfg(feature = "checksum")]
pub mod message;
#[cfg(feature = "checksum")]
pub mod op;
pub mod probe;
#[cfg(feature = "checksum")]
pub mod ring;
#[cfg(feature = "checksum")]
pub mod segment;
