//! The C functions of a producer, prefix `us_ring_`.
//!
//! Owns: handles, error numbers, and the way from C pointers to slices.
//! What can hurt: a null pointer (every function takes it), a panic (it becomes `US_RING_E_PANIC`), a ring that was
//! replaced or inherited by fork (it is opened again here, once, and the call repeated). Nothing here ends the process.
//! Refuses: threads that share one handle; open another, they share the mapping.

#![expect(unsafe_code, reason = "the C ABI takes raw pointers")]

use crate::producer::{Outcome, Producer, PublishError, RecordSpec};
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use understudy_types::ring::{
    AckLevel, CompletionRef, OnFull, OnTimeout, Policy, RECORD_CLOSES_INTENT, RecordKind, Role, Status, gap_bucket,
};

c_enumeration! { ERRORS;
    /// What a function gives: 0 or one of these.
    enum us_ring_error {
        /// Done.
        US_RING_OK = 0,
        /// A pointer is null, a length is too long, or a number is out of its range.
        US_RING_E_INVALID = -1,
        /// There is no ring file: the agent never ran here.
        US_RING_E_ABSENT = -2,
        /// The ring file cannot be opened: permissions, version, or damage.
        US_RING_E_OPEN = -3,
        /// Too many processes have the ring open.
        US_RING_E_NO_SLOT = -4,
        /// The ring is full; the record was dropped and its account marked for comparison. Go on.
        US_RING_E_DROPPED = -5,
        /// The ring is full and the policy says to refuse.
        US_RING_E_FULL = -6,
        /// Nothing came, or the ring stayed full, for the given time.
        US_RING_E_TIMED_OUT = -7,
        /// This node is fenced, or past the time until which it may change mail: refuse the change.
        US_RING_E_FENCED = -8,
        /// The agent refused the record.
        US_RING_E_REFUSED = -9,
        /// Account name or record are too long; the account was marked for comparison.
        US_RING_E_TOO_LARGE = -10,
        /// All completion slots are in use; the account was marked for comparison.
        US_RING_E_NO_COMPLETION = -11,
        /// The ring is damaged; the account was marked for comparison, the agent repairs the ring.
        US_RING_E_DAMAGED = -12,
        /// A bug was caught inside the library; the process is unharmed.
        US_RING_E_PANIC = -13,
        /// No peer acknowledged in the time that the agent waits.
        US_RING_E_PEER_TIMED_OUT = -14,
        /// No agent is attached, or it shows no sign of life. What was published stays in the ring.
        US_RING_E_AGENT_ABSENT = -15,
    }
}

c_enumeration! { STATUSES;
    /// What an answer says.
    enum us_ring_status {
        /// Durable on this node.
        US_RING_DURABLE = Status::Durable as i32,
        /// Durable on as many peers as the rule asks for.
        US_RING_REPLICATED = Status::Replicated as i32,
    }
}

c_enumeration! { LEVELS;
    /// What a change must reach before the client gets its OK.
    enum us_ring_level {
        /// Nothing.
        US_RING_LEVEL_NONE = AckLevel::None as i32,
        /// Durable on this node.
        US_RING_LEVEL_LOCAL = AckLevel::Local as i32,
        /// Durable on the policy's number of peers.
        US_RING_LEVEL_PEER = AckLevel::Peer as i32,
    }
}

c_enumeration! { TIMEOUTS;
    /// What to do when no answer comes in time.
    enum us_ring_on_timeout {
        /// Go on.
        US_RING_TIMEOUT_GO_ON = OnTimeout::GoOn as i32,
        /// Refuse the change.
        US_RING_TIMEOUT_REFUSE = OnTimeout::Refuse as i32,
    }
}

c_enumeration! { FULLS;
    /// What to do when the ring is full or the agent absent.
    enum us_ring_on_full {
        /// Go on; the account is marked for comparison.
        US_RING_FULL_GO_ON = OnFull::GoOnAndMarkGap as i32,
        /// Wait at most the policy's time, then refuse.
        US_RING_FULL_WAIT = OnFull::Wait as i32,
        /// Refuse at once.
        US_RING_FULL_REFUSE = OnFull::Refuse as i32,
    }
}

c_enumeration! { ROLES;
    /// Which part this node has for an account.
    enum us_ring_role {
        /// Users change the account here.
        US_RING_ROLE_ACTIVE = Role::Active as i32,
        /// Another node is active: refuse changes before they are committed.
        US_RING_ROLE_REPLICA = Role::Replica as i32,
    }
}

c_structure! { POLICY;
    /// What holds for an account.
    struct us_ring_policy {
        /// 1 when the account is captured.
        replicated: u8,
        /// One of `enum us_ring_level`.
        level: u8,
        /// Peers that must hold a change, for `US_RING_LEVEL_PEER`.
        peers: u8,
        /// One of `enum us_ring_on_timeout`.
        on_timeout: u8,
        /// One of `enum us_ring_on_full`.
        on_full: u8,
        /// 1 when an intent goes before each commit.
        intents: u8,
        /// One of `enum us_ring_role`.
        role: u8,
        /// Zero.
        reserved: u8,
        /// Longest wait for space or for an answer, in milliseconds.
        wait_timeout_ms: u32,
        /// When `us_ring_policy_generation` gives another number, ask again.
        generation: u32,
        /// Bit n is set when operations of kind n are captured.
        op_kinds: u64,
    }
}

c_structure! { COMPLETION;
    /// Names one answer that is being waited for.
    struct us_ring_completion {
        /// Index of the slot.
        slot: u32,
        /// Which use of it.
        ticket: u32,
    }
}

c_structure! { RECORD;
    /// An operation to publish.
    struct us_ring_record {
        /// The account's name.
        account: *const u8,
        /// Its bytes, at most `US_RING_ACCOUNT_BYTES_MAX`.
        account_bytes: usize,
        /// The encoded operation.
        payload: *const u8,
        /// Its bytes; with account and header at most `US_RING_RECORD_BYTES_MAX`.
        payload_bytes: usize,
        /// The intent that this operation closes; 0 for none.
        intent: u64,
        /// Wall time of the change, in nanoseconds since the epoch.
        captured_wall_ns: u64,
        /// Longest wait for space, in milliseconds, for `US_RING_FULL_WAIT`.
        full_wait_ms: u32,
        /// Bits that belong to the operation; only the upper eight are kept.
        flags: u16,
        /// One of `enum us_ring_on_full`.
        on_full: u8,
        /// Zero.
        reserved: u8,
    }
}

/// Bytes of the longest account name.
#[cfg(test)]
pub(crate) const US_RING_ACCOUNT_BYTES_MAX: u64 = understudy_types::ring::ACCOUNT_BYTES_MAX as u64;
/// Bytes of the largest record.
#[cfg(test)]
pub(crate) const US_RING_RECORD_BYTES_MAX: u64 = understudy_types::ring::RECORD_BYTES_MAX as u64;

/// A ring that a C program has open.
#[expect(non_camel_case_types, reason = "the name in C")]
#[derive(Debug)]
pub struct us_ring {
    path: PathBuf,
    producer: Arc<Producer>,
}

impl us_ring {
    /// Runs `call`; when the ring was replaced or belongs to the parent process, opens it again and runs once more.
    fn with<T>(&mut self, call: impl Fn(&Producer) -> Result<T, PublishError>) -> Result<T, i32> {
        match call(&self.producer) {
            Err(PublishError::Retired | PublishError::Forked) => {
                self.producer = Producer::open(&self.path).map_err(|error| open_error(&error))?;
                call(&self.producer).map_err(publish_error)
            }
            other => other.map_err(publish_error),
        }
    }
}

fn open_error(error: &crate::producer::OpenError) -> i32 {
    use crate::producer::OpenError;
    match error {
        OpenError::Absent(_) => US_RING_E_ABSENT,
        OpenError::Io { .. } => US_RING_E_OPEN,
        OpenError::NoSlot(_) => US_RING_E_NO_SLOT,
    }
}

fn publish_error(error: PublishError) -> i32 {
    match error {
        PublishError::Dropped => US_RING_E_DROPPED,
        PublishError::Full => US_RING_E_FULL,
        PublishError::TimedOut => US_RING_E_TIMED_OUT,
        PublishError::Fenced => US_RING_E_FENCED,
        PublishError::TooLarge { .. } => US_RING_E_TOO_LARGE,
        PublishError::NoCompletion => US_RING_E_NO_COMPLETION,
        PublishError::Damaged => US_RING_E_DAMAGED,
        PublishError::Retired | PublishError::Forked => US_RING_E_OPEN,
    }
}

/// The bytes of a C pointer; `None` when it is null although a length is given.
///
/// # Safety
/// `bytes` is null or points to `length` readable bytes that nobody writes during the call.
unsafe fn slice<'a>(bytes: *const u8, length: usize) -> Option<&'a [u8]> {
    if length == 0 {
        return Some(&[]);
    }
    if bytes.is_null() || isize::try_from(length).is_err() {
        return None;
    }
    // SAFETY: not null, as long as the caller promised, and no longer than a slice may be.
    Some(unsafe { std::slice::from_raw_parts(bytes, length) })
}

fn policy_to_c(policy: &Policy) -> us_ring_policy {
    us_ring_policy {
        replicated: u8::from(policy.replicated),
        level: policy.level as u8,
        peers: policy.peers,
        on_timeout: policy.on_timeout as u8,
        on_full: policy.on_full as u8,
        intents: u8::from(policy.intents),
        role: policy.role as u8,
        reserved: 0,
        wait_timeout_ms: policy.wait_timeout_ms,
        generation: policy.generation,
        op_kinds: policy.op_kinds,
    }
}

fn ms_to_ns(ms: u32) -> u64 {
    u64::from(ms) * 1_000_000
}

c_functions! { FUNCTIONS;
    /// Opens the ring at `path` and stores its handle at `ring`. Opening a ring again in one process is cheap.
    /// Gives `US_RING_OK` or an error; treat any as an absent agent. The handle is for one thread at a time.
    fn us_ring_open(path: *const c_char, ring: *mut *mut us_ring) -> i32 {
        if path.is_null() || ring.is_null() {
            return US_RING_E_INVALID;
        }
        // SAFETY: `ring` is not null and the caller's variable; `path` is not null and ends with a zero byte.
        let path = unsafe {
            *ring = std::ptr::null_mut();
            PathBuf::from(OsStr::from_bytes(CStr::from_ptr(path).to_bytes()))
        };
        match Producer::open(&path) {
            Ok(producer) => {
                // SAFETY: as above.
                unsafe { *ring = Box::into_raw(Box::new(us_ring { path, producer })) };
                US_RING_OK
            }
            Err(error) => open_error(&error),
        }
    } on_panic US_RING_E_PANIC;

    /// Closes a handle. The mapping goes with the last one. Null is nothing.
    fn us_ring_close(ring: *mut us_ring) {
        if !ring.is_null() {
            // SAFETY: it came from `us_ring_open` and was not closed before.
            drop(unsafe { Box::from_raw(ring) });
        }
    } on_panic ();

    /// The generation of the agent's rules. When it differs from a policy's, ask for the policy again. 0 for null.
    fn us_ring_policy_generation(ring: *const us_ring) -> u32 {
        // SAFETY: null or a handle that nobody else uses.
        unsafe { ring.as_ref() }.map_or(0, |ring| ring.producer.policy_generation())
    } on_panic 0;

    /// 1 when an agent is attached and showed a sign of life in the last five seconds, else 0.
    fn us_ring_agent_alive(ring: *const us_ring) -> i32 {
        // SAFETY: null or a handle that nobody else uses.
        unsafe { ring.as_ref() }.map_or(0, |ring| i32::from(ring.producer.agent_alive()))
    } on_panic 0;

    /// 1 when this node may not change mail now: fenced, or past the time until which it may. Else 0, also for null.
    /// To refuse a change before any work is done for it; `us_ring_intent_begin` looks again.
    fn us_ring_is_fenced(ring: *const us_ring) -> i32 {
        // SAFETY: null or a handle that nobody else uses.
        unsafe { ring.as_ref() }.map_or(0, |ring| i32::from(ring.producer.is_fenced()))
    } on_panic 0;

    /// Asks the agent what holds for an account, waits at most `timeout_ms`, and stores it at `policy`; the default
    /// policy when no answer comes, with a generation that is not the ring's. Call it at the start of a session: it also
    /// notices a ring that was replaced.
    fn us_ring_account_open(ring: *mut us_ring, account: *const u8, account_bytes: usize, wall_ns: u64, timeout_ms: u32, policy: *mut us_ring_policy) -> i32 {
        // SAFETY: null or a handle that nobody else uses; the account is as long as the caller says.
        let (Some(ring), Some(account)) = (unsafe { (ring.as_mut(), slice(account, account_bytes)) }) else { return US_RING_E_INVALID };
        if policy.is_null() {
            return US_RING_E_INVALID;
        }
        if !ring.producer.is_at(&ring.path) && let Ok(producer) = Producer::open(&ring.path) {
            ring.producer = producer;
        }
        match ring.with(|producer| producer.account_open(account, wall_ns, ms_to_ns(timeout_ms))) {
            Ok(found) => {
                // SAFETY: not null, and the caller's variable.
                unsafe { *policy = policy_to_c(&found) };
                US_RING_OK
            }
            Err(error) => error,
        }
    } on_panic US_RING_E_PANIC;

    /// Says that a change of an account is about to be committed; `what` names the mailbox. Stores the intent's id
    /// at `intent`. An error comes before anything was changed: refuse the change or go on, as the policy says.
    fn us_ring_intent_begin(ring: *mut us_ring, account: *const u8, account_bytes: usize, what: *const u8, what_bytes: usize, wall_ns: u64, on_full: u8, full_wait_ms: u32, intent: *mut u64) -> i32 {
        // SAFETY: null or a handle that nobody else uses; the slices are as long as the caller says.
        let (Some(ring), Some(account), Some(what)) = (unsafe { (ring.as_mut(), slice(account, account_bytes), slice(what, what_bytes)) }) else { return US_RING_E_INVALID };
        let Some(on_full) = OnFull::from_u8(on_full) else { return US_RING_E_INVALID };
        if intent.is_null() {
            return US_RING_E_INVALID;
        }
        match ring.with(|producer| producer.intent_begin(account, what, wall_ns, on_full, ms_to_ns(full_wait_ms))) {
            Ok(id) => {
                // SAFETY: not null, and the caller's variable.
                unsafe { *intent = id };
                US_RING_OK
            }
            Err(error) => error,
        }
    } on_panic US_RING_E_PANIC;

    /// Says that the change of an intent did not happen.
    fn us_ring_intent_end(ring: *mut us_ring, account: *const u8, account_bytes: usize, intent: u64, wall_ns: u64) -> i32 {
        // SAFETY: null or a handle that nobody else uses; the account is as long as the caller says.
        let (Some(ring), Some(account)) = (unsafe { (ring.as_mut(), slice(account, account_bytes)) }) else { return US_RING_E_INVALID };
        match ring.with(|producer| producer.intent_end(account, intent, wall_ns)) {
            Ok(()) => US_RING_OK,
            Err(error) => error,
        }
    } on_panic US_RING_E_PANIC;

    /// Publishes an operation. With `completion`, an answer is wanted, and its name is stored there; wait for it with
    /// `us_ring_wait`, after letting go of locks. `US_RING_OK` means that the record will be delivered.
    fn us_ring_publish(ring: *mut us_ring, record: *const us_ring_record, completion: *mut us_ring_completion) -> i32 {
        // SAFETY: null or a handle that nobody else uses; null or a record of the caller's.
        let (Some(ring), Some(record)) = (unsafe { (ring.as_mut(), record.as_ref()) }) else { return US_RING_E_INVALID };
        // SAFETY: the slices are as long as the caller says.
        let (Some(account), Some(payload)) = (unsafe { (slice(record.account, record.account_bytes), slice(record.payload, record.payload_bytes)) }) else { return US_RING_E_INVALID };
        let Some(on_full) = OnFull::from_u8(record.on_full) else { return US_RING_E_INVALID };
        let closes = if record.intent == 0 { 0 } else { RECORD_CLOSES_INTENT };
        let spec = RecordSpec {
            kind: RecordKind::Op,
            flags: (record.flags & 0xFF00) | closes,
            account,
            payload,
            intent: record.intent,
            captured_wall_ns: record.captured_wall_ns,
            completion: !completion.is_null(),
            on_full,
            full_wait_ns: ms_to_ns(record.full_wait_ms),
        };
        match ring.with(|producer| producer.publish(&spec)) {
            Ok(published) => {
                if let (Some(at), false) = (published.completion, completion.is_null()) {
                    // SAFETY: not null, and the caller's variable.
                    unsafe { *completion = us_ring_completion { slot: at.slot, ticket: at.ticket } };
                }
                US_RING_OK
            }
            Err(error) => error,
        }
    } on_panic US_RING_E_PANIC;

    /// Waits for an answer, at most `timeout_ms`. Gives a value of `enum us_ring_status`, or an error. Without a living
    /// agent, `US_RING_FULL_WAIT` in `on_absent` waits all the same; else `US_RING_E_AGENT_ABSENT` comes at once.
    /// Past the time until which this node may change mail, `US_RING_E_FENCED` comes in place of all but a refusal.
    /// The slot is free afterwards, whatever the outcome: wait once for each answer.
    fn us_ring_wait(ring: *mut us_ring, completion: us_ring_completion, timeout_ms: u32, on_absent: u8) -> i32 {
        // SAFETY: null or a handle that nobody else uses.
        let Some(ring) = (unsafe { ring.as_mut() }) else { return US_RING_E_INVALID };
        let Some(on_absent) = OnFull::from_u8(on_absent) else { return US_RING_E_INVALID };
        let at = CompletionRef { slot: completion.slot, ticket: completion.ticket };
        match ring.producer.wait(at, ms_to_ns(timeout_ms), on_absent) {
            Outcome::Answered { status, .. } => match status {
                Status::Durable | Status::Replicated => status as i32,
                Status::TimedOut => US_RING_E_PEER_TIMED_OUT,
                Status::Fenced => US_RING_E_FENCED,
                Status::Refused | Status::Policy => US_RING_E_REFUSED,
            },
            Outcome::TimedOut => US_RING_E_TIMED_OUT,
            Outcome::Absent => US_RING_E_AGENT_ABSENT,
        }
    } on_panic US_RING_E_PANIC;

    /// Gives up an answer that was asked for and is not waited for.
    fn us_ring_forget(ring: *mut us_ring, completion: us_ring_completion) {
        // SAFETY: null or a handle that nobody else uses.
        if let Some(ring) = unsafe { ring.as_ref() } {
            ring.producer.forget(CompletionRef { slot: completion.slot, ticket: completion.ticket });
        }
    } on_panic ();

    /// Marks an account for comparison: something of it was not captured.
    fn us_ring_mark_gap(ring: *mut us_ring, account: *const u8, account_bytes: usize) -> i32 {
        // SAFETY: null or a handle that nobody else uses; the account is as long as the caller says.
        let (Some(ring), Some(account)) = (unsafe { (ring.as_ref(), slice(account, account_bytes)) }) else { return US_RING_E_INVALID };
        ring.producer.mark_gap(account);
        US_RING_OK
    } on_panic US_RING_E_PANIC;

    /// The bucket of the gap bitmap that an account falls into.
    fn us_ring_gap_bucket(account: *const u8, account_bytes: usize) -> u16 {
        // SAFETY: the account is as long as the caller says.
        unsafe { slice(account, account_bytes) }.map_or(0, gap_bucket)
    } on_panic 0;

    /// What a value of `enum us_ring_error` means, in English; never null, never to be freed.
    fn us_ring_strerror(error: i32) -> *const c_char {
        let text = match error {
            US_RING_OK => c"done",
            US_RING_E_INVALID => c"invalid argument",
            US_RING_E_ABSENT => c"there is no ring; start the agent",
            US_RING_E_OPEN => c"cannot open the ring; check its permissions and that agent and plugin have the same version",
            US_RING_E_NO_SLOT => c"too many processes have the ring open",
            US_RING_E_DROPPED => c"the ring is full; the record was dropped and its account marked for comparison",
            US_RING_E_FULL => c"the ring is full; check that the agent runs",
            US_RING_E_TIMED_OUT => c"no answer in the configured time; check that the agent runs",
            US_RING_E_FENCED => c"this node is fenced and may not change mail",
            US_RING_E_REFUSED => c"the agent refused the record",
            US_RING_E_TOO_LARGE => c"the record is too long; its account was marked for comparison",
            US_RING_E_NO_COMPLETION => c"all completion slots are in use; the account was marked for comparison",
            US_RING_E_DAMAGED => c"the ring is damaged; the account was marked for comparison",
            US_RING_E_PANIC => c"internal error",
            US_RING_E_PEER_TIMED_OUT => c"no peer acknowledged in time",
            US_RING_E_AGENT_ABSENT => c"no agent is attached; the record stays in the ring",
            _ => c"unknown error",
        };
        text.as_ptr()
    } on_panic c"internal error".as_ptr();
}
