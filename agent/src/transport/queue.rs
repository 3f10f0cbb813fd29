//! What waits for one connection: bounded, filled from any thread, emptied by the transport's.
//!
//! Owns: two lanes (everything but frames goes first, so that an ack never stands behind a megabyte), the answer to a
//! peer that asked, the wish to close, and the figures of the link. Refuses: waiting; a full queue says so.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use understudy_types::id::NodeId;
use understudy_types::message::{Channel, Message, Position, RefusedCode};

use super::handshake::DownReason;
use super::{LinkId, SendError};
use crate::limits::LINK_QUEUE_MESSAGES_MAX;

/// One connection as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    pub link: LinkId,
    pub peer: Option<NodeId>,
    pub channel: Option<Channel>,
    /// This node dialled.
    pub dialled: bool,
    pub up: bool,
    /// Of the last ping; 0 = none answered yet.
    pub rtt_ns: u64,
    /// Message bytes before encryption.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub sent_frames: u64,
    pub received_frames: u64,
    /// Messages of types that this version does not know.
    pub unknown_messages: u64,
    pub queued_bytes: usize,
    pub queued_messages: usize,
    /// Bytes of frames that may be sent before the peer gives more.
    pub credit_bytes: u64,
}

pub(super) type Answer = Result<Vec<Position>, (RefusedCode, String)>;

/// One message, ready to be written.
pub(super) struct Queued {
    pub(super) bytes: Vec<u8>,
    pub(super) is_frame: bool,
    /// Credit that the message gives to the peer, in bytes.
    pub(super) grant: u64,
}

pub(super) struct LinkQueue {
    lanes: Mutex<Lanes>,
    bytes_max: usize,
    /// Something to write, or an answer.
    pub(super) wake: Notify,
    /// Somebody wants the link closed.
    pub(super) closing: Notify,
}

struct Lanes {
    control: VecDeque<Queued>,
    frames: VecDeque<Queued>,
    /// The newest beat only.
    beat: Option<Vec<u8>>,
    answer: Option<Answer>,
    close: Option<DownReason>,
    status: LinkStatus,
}

impl LinkQueue {
    pub(super) fn new(link: LinkId, dialled: Option<(NodeId, Channel)>, bytes_max: usize) -> Self {
        let status = LinkStatus {
            link,
            peer: dialled.map(|d| d.0),
            channel: dialled.map(|d| d.1),
            dialled: dialled.is_some(),
            up: false,
            rtt_ns: 0,
            sent_bytes: 0,
            received_bytes: 0,
            sent_frames: 0,
            received_frames: 0,
            unknown_messages: 0,
            queued_bytes: 0,
            queued_messages: 0,
            credit_bytes: 0,
        };
        let lanes =
            Lanes { control: VecDeque::new(), frames: VecDeque::new(), beat: None, answer: None, close: None, status };
        Self { lanes: Mutex::new(lanes), bytes_max, wake: Notify::new(), closing: Notify::new() }
    }

    /// A poisoned lock means that a thread panicked while it held plain numbers and queues; they are still whole.
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, message: &Message) -> Result<(), SendError> {
        let bytes = message.encode()?;
        {
            let mut lanes = self.lock();
            if !lanes.status.up || lanes.close.is_some() {
                return Err(SendError::NotConnected);
            }
            let is_frame = matches!(message, Message::Frame { .. });
            if is_frame && !lanes.status.dialled {
                return Err(SendError::Direction);
            }
            // An empty queue takes anything: a message that is larger than the limit could else never go.
            let full = lanes.status.queued_messages >= LINK_QUEUE_MESSAGES_MAX
                || lanes.status.queued_bytes + bytes.len() > self.bytes_max;
            if full && lanes.status.queued_messages > 0 {
                return Err(SendError::Full);
            }
            lanes.status.queued_bytes += bytes.len();
            lanes.status.queued_messages += 1;
            let grant = if let Message::Credit { bytes } = message { *bytes } else { 0 };
            let lane = if is_frame { &mut lanes.frames } else { &mut lanes.control };
            lane.push_back(Queued { bytes, is_frame, grant });
        }
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn push_beat(&self, beat: &[u8]) -> Result<(), SendError> {
        let bytes = Message::Beat(beat.to_vec()).encode()?;
        {
            let mut lanes = self.lock();
            if !lanes.status.up || lanes.close.is_some() {
                return Err(SendError::NotConnected);
            }
            lanes.beat = Some(bytes);
        }
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn answer(&self, answer: Answer) -> Result<(), SendError> {
        {
            let mut lanes = self.lock();
            if lanes.close.is_some() {
                return Err(SendError::NotConnected);
            }
            lanes.answer = Some(answer);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// The first reason stays.
    pub(super) fn close(&self, reason: DownReason) {
        self.lock().close.get_or_insert(reason);
        self.closing.notify_one();
    }

    pub(super) fn close_reason(&self) -> Option<DownReason> {
        self.lock().close.clone()
    }

    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.lock().answer.take()
    }

    /// The next message to write: anything but a frame, or else a frame if `frame_credit` covers it.
    pub(super) fn pop(&self, frame_credit: u64) -> Option<Queued> {
        let mut lanes = self.lock();
        if let Some(bytes) = lanes.beat.take() {
            return Some(Queued { bytes, is_frame: false, grant: 0 });
        }
        let queued = match lanes.control.pop_front() {
            Some(queued) => queued,
            None if lanes.frames.front().is_some_and(|frame| frame.bytes.len() as u64 <= frame_credit) => {
                lanes.frames.pop_front()?
            }
            None => return None,
        };
        lanes.status.queued_bytes -= queued.bytes.len();
        lanes.status.queued_messages -= 1;
        Some(queued)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut LinkStatus)) {
        change(&mut self.lock().status);
    }

    pub(super) fn status(&self) -> LinkStatus {
        self.lock().status.clone()
    }
}
