//! Every byte layout that another program, process, node or later version depends on.
//!
//! Owns: ids and positions (`id`), operations (`op`), the ring's layout (`ring`), frames (`frame`),
//! messages between agents (`message`), kernel events (`probe`), and the limits that belong to a format.
//! Refuses: unsafe code, the standard library, and anything that decides. Layouts are little-endian; a
//! decoder takes hostile bytes and answers with a value or with an error that names the place.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod id;
pub mod op;
pub mod ring;
pub mod frame;
pub mod message;
pub mod probe;
