//! Reads the few facts needed from the kernel's type information (`/sys/kernel/btf/vmlinux`): byte offsets of
//! fields, and whether a tracepoint passes a pointer.
//!
//! Owns: a reader that indexes the type section once and looks names up. What can hurt: a file that is not what it
//! says; every offset is checked against the section it points into, and nesting is bounded. Refuses: bit fields.

use understudy_types::probe::Offsets;

/// Where the kernel shows its type information.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// Anonymous structures inside structures are searched this deep.
const NESTING_MAX: u32 = 4;

const KIND_INT: u32 = 1;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
const KIND_VARIABLE: u32 = 14;
const KIND_DATA_SECTION: u32 = 15;
const KIND_DECLARATION_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Why the type information could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("cannot read `{KERNEL_BTF}`: {0}; the kernel needs CONFIG_DEBUG_INFO_BTF")]
    Read(#[from] std::io::Error),
    /// The bytes break the format.
    #[error("type information is malformed at byte {at}: {what}")]
    Malformed {
        /// Offset in the file.
        at: usize,
        /// The rule that is broken.
        what: &'static str,
    },
    /// A structure or field that the kernel programs need is not there.
    #[error("this kernel has no `{structure}.{field}`")]
    Missing {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}

/// The type information of a kernel.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    strings_at: usize,
    strings_end: usize,
    /// Byte offset of each type record; type ids start at 1.
    types: Vec<u32>,
}

impl Btf {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// When the file is absent or malformed.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(std::fs::read(KERNEL_BTF)?)
    }

    /// Indexes type information.
    ///
    /// # Errors
    /// When a length or offset leaves its section.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.len() < 24 {
            return Err(BtfError::Malformed { at: 0, what: "shorter than its header" });
        }
        if u16::from_ne_bytes([bytes[0], bytes[1]]) != MAGIC {
            return Err(BtfError::Malformed { at: 0, what: "wrong magic" });
        }
        let header_bytes = word(&bytes, 4)? as usize;
        let section = |offset: u32, length: u32| -> Result<(usize, usize), BtfError> {
            let start = header_bytes.checked_add(offset as usize);
            let end = start.and_then(|start| start.checked_add(length as usize));
            match (start, end) {
                (Some(start), Some(end)) if end <= bytes.len() => Ok((start, end)),
                _ => Err(BtfError::Malformed { at: 8, what: "a section leaves the file" }),
            }
        };
        let (types_at, types_end) = section(word(&bytes, 8)?, word(&bytes, 12)?)?;
        let (strings_at, strings_end) = section(word(&bytes, 16)?, word(&bytes, 20)?)?;
        let mut types = vec![0];
        let mut at = types_at;
        while at < types_end {
            let info = word(&bytes, at + 4)?;
            let members = (info & 0xffff) as usize;
            let extra = match (info >> 24) & 0x1f {
                KIND_INT | KIND_VARIABLE | KIND_DECLARATION_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATA_SECTION | KIND_ENUM64 => 12 * members,
                KIND_ENUM | KIND_FUNCTION_PROTOTYPE => 8 * members,
                kind if kind <= KIND_ENUM64 => 0,
                _ => return Err(BtfError::Malformed { at, what: "unknown kind of type" }),
            };
            types.push(u32::try_from(at).map_err(|_| BtfError::Malformed { at, what: "file too large" })?);
            at += 12 + extra;
        }
        if at != types_end {
            return Err(BtfError::Malformed { at, what: "the last type leaves its section" });
        }
        Ok(Self { bytes, strings_at, strings_end, types })
    }

    /// Byte offset of a field, also through anonymous structures. `None` if there is none.
    #[must_use]
    pub fn field_bytes(&self, structure: &str, field: &str) -> Option<u32> {
        (1..self.types.len())
            .filter(|id| self.kind(*id) == Some(KIND_STRUCT) && self.is_named(*id, structure))
            .find_map(|id| self.find_field(id, field, NESTING_MAX))
            .map(|bits| bits / 8)
    }

    /// Whether argument `index` of a tracepoint is a pointer. `None` if the kernel has no such tracepoint.
    #[must_use]
    pub fn argument_is_pointer(&self, tracepoint: &str, index: usize) -> Option<bool> {
        let name = format!("btf_trace_{tracepoint}");
        let typedef =
            (1..self.types.len()).find(|id| self.kind(*id) == Some(KIND_TYPEDEF) && self.is_named(*id, &name))?;
        let pointer = self.size_or_type(typedef)?;
        let prototype = self.size_or_type(pointer)?;
        if self.kind(pointer)? != KIND_POINTER || self.kind(prototype)? != KIND_FUNCTION_PROTOTYPE {
            return None;
        }
        // Parameter 0 is the programs' own context.
        let parameter = index + 1;
        if parameter >= self.members(prototype)? {
            return None;
        }
        let at = *self.types.get(prototype)? as usize + 12 + 8 * parameter;
        let id = word(&self.bytes, at + 4).ok()? as usize;
        Some(self.kind(id)? == KIND_POINTER)
    }

    fn find_field(&self, id: usize, field: &str, depth: u32) -> Option<u32> {
        let record = *self.types.get(id)? as usize;
        let has_bit_sizes = word(&self.bytes, record + 4).ok()? >> 31 != 0;
        for member in 0..self.members(id)? {
            let at = record + 12 + 12 * member;
            let name = word(&self.bytes, at).ok()?;
            let inner = word(&self.bytes, at + 4).ok()? as usize;
            let raw = word(&self.bytes, at + 8).ok()?;
            let (bits, bit_size) = if has_bit_sizes { (raw & 0xff_ffff, raw >> 24) } else { (raw, 0) };
            if name != 0 && self.string_is(name, field) {
                return (bit_size == 0 && bits % 8 == 0).then_some(bits);
            }
            if name == 0
                && depth > 0
                && matches!(self.kind(inner), Some(KIND_STRUCT | KIND_UNION))
                && let Some(deeper) = self.find_field(inner, field, depth - 1)
            {
                return bits.checked_add(deeper);
            }
        }
        None
    }

    fn kind(&self, id: usize) -> Option<u32> {
        if id == 0 {
            return None;
        }
        Some((word(&self.bytes, *self.types.get(id)? as usize + 4).ok()? >> 24) & 0x1f)
    }

    fn members(&self, id: usize) -> Option<usize> {
        Some((word(&self.bytes, *self.types.get(id)? as usize + 4).ok()? & 0xffff) as usize)
    }

    fn size_or_type(&self, id: usize) -> Option<usize> {
        Some(word(&self.bytes, *self.types.get(id)? as usize + 8).ok()? as usize)
    }

    fn is_named(&self, id: usize, name: &str) -> bool {
        self.types.get(id).and_then(|at| word(&self.bytes, *at as usize).ok()).is_some_and(|s| self.string_is(s, name))
    }

    fn string_is(&self, offset: u32, name: &str) -> bool {
        let Some(start) = self.strings_at.checked_add(offset as usize) else { return false };
        let end = start.saturating_add(name.len());
        end < self.strings_end && self.bytes.get(start..end) == Some(name.as_bytes()) && self.bytes.get(end) == Some(&0)
    }
}

/// The offsets that the kernel programs need, as far as this kernel has them.
#[derive(Debug)]
pub struct KernelOffsets {
    /// What is handed to the programs; a field that is missing stays 0.
    pub offsets: Offsets,
    /// Hooks about tasks can be used.
    pub task_fields: Result<(), String>,
    /// Hooks about block requests can be used.
    pub block_fields: Result<(), String>,
}

/// First argument of a system call in `pt_regs`, fixed by the kernel's ptrace interface.
#[cfg(target_arch = "x86_64")]
const REGS_ARGUMENT_BYTES: u32 = 112;
#[cfg(not(target_arch = "x86_64"))]
const REGS_ARGUMENT_BYTES: u32 = 0;

/// Looks all offsets up.
#[must_use]
pub fn kernel_offsets(btf: &Result<Btf, BtfError>) -> KernelOffsets {
    let offsets = Offsets { regs_argument: REGS_ARGUMENT_BYTES, ..Offsets::default() };
    let mut found = KernelOffsets { offsets, task_fields: Ok(()), block_fields: Ok(()) };
    let btf = match btf {
        Ok(btf) => btf,
        Err(error) => {
            found.task_fields = Err(error.to_string());
            found.block_fields = Err(error.to_string());
            return found;
        }
    };
    let look = |into: &mut u32, structure: &'static str, field: &'static str| -> Result<(), String> {
        *into = btf.field_bytes(structure, field).ok_or_else(|| BtfError::Missing { structure, field }.to_string())?;
        Ok(())
    };
    let offsets = &mut found.offsets;
    found.task_fields = look(&mut offsets.task_pid, "task_struct", "pid")
        .and_then(|()| look(&mut offsets.task_tgid, "task_struct", "tgid"))
        .and_then(|()| look(&mut offsets.task_exit_code, "task_struct", "exit_code"))
        .and_then(|()| look(&mut offsets.task_signal, "task_struct", "signal"))
        .and_then(|()| look(&mut offsets.signal_live, "signal_struct", "live"));
    found.block_fields = look(&mut offsets.request_queue, "request", "q")
        .and_then(|()| look(&mut offsets.request_flags, "request", "cmd_flags"))
        .and_then(|()| look(&mut offsets.request_sector, "request", "__sector"))
        .and_then(|()| look(&mut offsets.request_bytes, "request", "__data_len"))
        .and_then(|()| look(&mut offsets.queue_disk, "request_queue", "disk"))
        .and_then(|()| look(&mut offsets.disk_major, "gendisk", "major"))
        .and_then(|()| look(&mut offsets.disk_minor, "gendisk", "first_minor"));
    offsets.victim_is_task = u32::from(btf.argument_is_pointer("mark_victim", 0).unwrap_or(false));
    found
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let end = at.checked_add(4).ok_or(BtfError::Malformed { at, what: "an offset overflows" })?;
    let slice = bytes.get(at..end).ok_or(BtfError::Malformed { at, what: "a field leaves the file" })?;
    Ok(u32::from_ne_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One structure `outer` with `first` at byte 4 and an anonymous structure at byte 8 holding `deep` at 16.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0first\0deep\0";
        let mut types: Vec<u8> = Vec::new();
        let mut push = |words: &[u32]| words.iter().for_each(|w| types.extend_from_slice(&w.to_ne_bytes()));
        push(&[0, (KIND_STRUCT << 24) | 1, 24, 13, 1, 16 * 8]);
        push(&[1, (KIND_STRUCT << 24) | 2, 40, 7, 1, 4 * 8, 0, 1, 8 * 8]);
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_ne_bytes());
        out.extend_from_slice(&[1, 0]);
        let lengths = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        lengths.iter().for_each(|w| out.extend_from_slice(&w.to_ne_bytes()));
        out.extend_from_slice(&types);
        out.extend_from_slice(strings);
        out
    }

    #[test]
    fn fields_are_found_directly_and_through_anonymous_structures() {
        let btf = Btf::parse(sample()).expect("valid");
        assert_eq!(btf.field_bytes("outer", "first"), Some(4));
        assert_eq!(btf.field_bytes("outer", "deep"), Some(24));
        assert_eq!(btf.field_bytes("outer", "fir"), None);
        assert_eq!(btf.field_bytes("inner", "first"), None);
    }

    #[test]
    fn damaged_type_information_never_panics() {
        let good = sample();
        for length in 0..good.len() {
            let _ = Btf::parse(good[..length].to_vec()).map(|btf| btf.field_bytes("outer", "deep"));
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(btf) = Btf::parse(bad) {
                let _ = btf.field_bytes("outer", "deep");
                let _ = btf.argument_is_pointer("x", 0);
            }
        }
    }
}
