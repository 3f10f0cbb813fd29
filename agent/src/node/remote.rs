//! Requests between agents: those that this node waits for, and the threads that answer those of peers.
//!
//! Owns: which request waits for which answer, and the bound on both. What can hurt: a peer that never answers or
//! answers without end; requests have a time-out and answers a limit.

use std::collections::HashMap;
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use understudy_types::id::NodeId;
use understudy_types::message::{Message, PAYLOAD_BYTES_MAX, status};

use super::holds::Holds;
use crate::clock::MonoNs;
use crate::limits::{ANSWERERS, REPLY_BYTES_MAX, REQUESTS_WAITING_MAX};
use crate::transport::{LinkId, SendError, TransportHandle};

type Reply = Sender<Result<Vec<u8>, String>>;

struct Ask {
    peer: NodeId,
    link: LinkId,
    reply: Option<Reply>,
    body: Vec<u8>,
    until: MonoNs,
}

/// Requests that wait for their answers.
#[derive(Default)]
pub(crate) struct Asks {
    waiting: HashMap<u64, Ask>,
    last: u64,
}

impl Asks {
    /// Opens a request that waits until then, and gives its number.
    pub(crate) fn open(&mut self, peer: NodeId, link: LinkId, reply: Option<Reply>, until: MonoNs) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, Ask { peer, link, reply, body: Vec::new(), until });
        self.last
    }

    /// A part of an answer came.
    pub(crate) fn reply(&mut self, peer: NodeId, id: u64, state: u16, more: bool, body: Vec<u8>) {
        let Some(ask) = self.waiting.get_mut(&id).filter(|ask| ask.peer == peer) else { return };
        if ask.body.len() + body.len() > REPLY_BYTES_MAX {
            self.fail(id, "the answer is too long");
            return;
        }
        ask.body.extend_from_slice(&body);
        if more && state == status::OK {
            return;
        }
        let Some(ask) = self.waiting.remove(&id) else { return };
        let result = if state == status::OK {
            Ok(ask.body)
        } else {
            Err(if body.is_empty() { format!("status {state}") } else { String::from_utf8_lossy(&body).into_owned() })
        };
        match (ask.reply, result) {
            // Whoever asked may have given up.
            (Some(reply), result) => drop(reply.send(result)),
            (None, Err(error)) => tracing::warn!(peer = peer.get(), error, "a peer refused a request"),
            (None, Ok(_)) => {}
        }
    }

    /// A request could not be sent or answered.
    pub(crate) fn fail(&mut self, id: u64, why: &str) {
        if let Some(Ask { reply: Some(reply), .. }) = self.waiting.remove(&id) {
            let _ = reply.send(Err(why.to_owned()));
        }
    }

    /// The link is gone, and with it the answers.
    pub(crate) fn disconnected(&mut self, link: LinkId) {
        self.fail_where("the peer disconnected", |ask| ask.link == link);
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now: MonoNs) {
        self.fail_where("no answer in time", |ask| ask.until <= now);
    }

    fn fail_where(&mut self, why: &str, which: impl Fn(&Ask) -> bool) {
        let ids: Vec<u64> = self.waiting.iter().filter(|(_, ask)| which(ask)).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.fail(id, why));
    }
}

struct Job {
    link: LinkId,
    id: u64,
    kind: u16,
    body: Vec<u8>,
}

/// The threads that answer requests of peers.
pub(crate) struct Answering {
    jobs: Sender<Job>,
}

impl Answering {
    /// Starts the threads; they end when this is dropped.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub(crate) fn begin(holds: &Holds, transport: &TransportHandle) -> std::io::Result<Self> {
        let (jobs, orders) = bounded::<Job>(REQUESTS_WAITING_MAX);
        for n in 0..ANSWERERS {
            let (holds, transport, orders) = (holds.clone(), transport.clone(), orders.clone());
            let thread = std::thread::Builder::new().name(format!("answer-{n}"));
            thread.spawn(move || {
                let mut store = (holds.verifier.connect)();
                while let Ok(job) = orders.recv() {
                    let held = holds.answer(job.kind, &job.body, store.as_mut());
                    let answer = held.unwrap_or_else(|| holds.verifier.answer(job.kind, &job.body, store.as_mut()));
                    send(&transport, &job, answer);
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Queues a request; `false` when too many wait.
    #[must_use]
    pub(crate) fn start(&self, link: LinkId, id: u64, kind: u16, body: Vec<u8>) -> bool {
        self.jobs.try_send(Job { link, id, kind, body }).is_ok()
    }
}

fn send(transport: &TransportHandle, job: &Job, answer: Result<Vec<u8>, String>) {
    let (state, body) = match answer {
        Ok(body) => (status::OK, body),
        Err(why) => (status::FAILED, why.into_bytes()),
    };
    let mut rest = &body[..];
    loop {
        let part;
        (part, rest) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX / 4));
        let reply = Message::Reply { id: job.id, status: state, more: !rest.is_empty(), body: part.to_vec() };
        while let Err(SendError::Full) = transport.send_on(job.link, &reply) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if rest.is_empty() {
            return;
        }
    }
}
