//! A watch of etcd: one stream of changes, and a thread that hands them on.
//!
//! Owns: beginning the stream, putting its parts together, noticing that it is dead. What can hurt: a member that is
//! frozen or cut off sends nothing, as does one where nothing happens; so a silent stream is asked for a sign, and is
//! lost when none comes. etcd before 3.4.25 gives such signs ahead of changes that it still has to send (etcd issue
//! 15220), so their revision says nothing about what was seen. Refuses: going on at another member: the caller takes a
//! new snapshot.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::calls::{Meaning, Shared, meaning, positive, revision};
use super::members::Chosen;
use super::messages::{
    Event, EventType, WatchAsk, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::coordinator::{CoordinatorError, KeyChange, Sink, WatchEvent, WatchHandle};
use crate::limits::{COORDINATOR_BYTES_MAX, COORDINATOR_EVENTS_MAX, ETCD_WATCH_PROGRESS_MS, ETCD_WATCH_SILENCES_MAX};

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A stream that etcd has begun.
struct Stream {
    answers: Streaming<WatchResponse>,
    asks: mpsc::Sender<WatchRequest>,
}

pub(super) async fn begin(shared: &Arc<Shared>, from: u64, mut sink: Sink) -> Result<WatchHandle, CoordinatorError> {
    let limit = shared.timeout();
    let mut silent = None;
    let opened = timeout(limit, open(shared, from, &mut silent)).await;
    let (stream, chosen) = match (opened, silent) {
        (Ok(opened), _) => opened?,
        (Err(_), Some(chosen)) => {
            let why = format!("no watch from {} within {} ms", shared.members.name(&chosen), limit.as_millis());
            shared.members.failed(&chosen, &why);
            return Err(shared.unreachable(&why));
        }
        (Err(_), None) => return Err(shared.unreachable("")),
    };
    let (events, mut to_tell) = mpsc::channel::<WatchEvent>(COORDINATOR_EVENTS_MAX);
    let tell = move || {
        while let Some(event) = to_tell.blocking_recv() {
            sink(event);
        }
    };
    let thread = std::thread::Builder::new().name("coordinator-watch".to_owned()).spawn(tell);
    thread.map_err(|error| shared.unreachable(&format!("cannot begin a thread: {error}")))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let shared = shared.clone();
    tokio::spawn(async move {
        let followed = async {
            let why = follow(&shared, stream, from, &events).await;
            let why = format!("{}: {why}", shared.members.name(&chosen));
            shared.members.failed(&chosen, &why);
            let _ = events.send(WatchEvent::Lost(why)).await;
        };
        tokio::select! {
            // Never sent: it is there, or the handle was dropped.
            _ = stopped => {}
            () = followed => {}
        }
    });
    Ok(WatchHandle(Box::new(stop)))
}

async fn open(
    shared: &Arc<Shared>,
    from: u64,
    silent: &mut Option<Chosen>,
) -> Result<(Stream, Chosen), CoordinatorError> {
    let mut logins = 0;
    loop {
        let chosen = shared.members.choose().await;
        *silent = Some(chosen.clone());
        let status = match try_open(shared, from, &chosen).await {
            Ok(stream) => return Ok((stream, chosen)),
            Err(status) => status,
        };
        let why = format!("{}: {}", shared.members.name(&chosen), status.message());
        match meaning(&status) {
            Meaning::Login if logins == 0 && shared.user.is_some() => {
                logins += 1;
                shared.forget_token();
            }
            Meaning::Login => return Err(CoordinatorError::Config(why)),
            Meaning::Refused => return Err(CoordinatorError::Refused { of: shared.describe(), reason: why }),
            _ => {
                shared.members.failed(&chosen, &why);
                return Err(shared.unreachable(&why));
            }
        }
    }
}

async fn try_open(shared: &Arc<Shared>, from: u64, chosen: &Chosen) -> Result<Stream, Status> {
    let token = shared.token(chosen).await?;
    let (asks, stream) = mpsc::channel(4);
    let create = WatchCreateRequest {
        key: shared.prefix.clone().into_bytes(),
        range_end: shared.range_end(),
        start_revision: i64::try_from(from.saturating_add(1)).unwrap_or(i64::MAX),
        fragment: true,
    };
    let create = WatchRequest { request: Some(WatchAsk::Create(create)) };
    asks.try_send(create).map_err(|error| Status::internal(error.to_string()))?;
    let mut answers: Streaming<WatchResponse> =
        chosen.connection.stream(WATCH, ReceiverStream::new(stream), token.as_ref()).await?;
    let Some(first) = answers.message().await? else { return Err(Status::unknown("the watch ended at once")) };
    if first.canceled || !first.created {
        // So etcd 3.4 refuses who may not read, with the reason in the answer.
        let why = if first.cancel_reason.is_empty() { "the watch was not begun" } else { &first.cancel_reason };
        return Err(if why.contains("auth token") { Status::unauthenticated(why) } else { Status::unknown(why) });
    }
    Ok(Stream { answers, asks })
}

/// Hands changes on until the stream cannot go on; says why.
async fn follow(shared: &Shared, mut stream: Stream, from: u64, events: &mpsc::Sender<WatchEvent>) -> String {
    let progress = Duration::from_millis(ETCD_WATCH_PROGRESS_MS);
    let mut silences = 0;
    let mut parts: Vec<Event> = Vec::new();
    let mut parts_bytes = 0;
    let mut last = from;
    loop {
        let answer = match timeout(progress, stream.answers.message()).await {
            Err(_) if silences == ETCD_WATCH_SILENCES_MAX => {
                let ms = u64::from(silences) * ETCD_WATCH_PROGRESS_MS;
                return format!("no sign for {ms} ms that it is at revision {last} or later");
            }
            Err(_) => {
                silences += 1;
                let ask = WatchRequest { request: Some(WatchAsk::Progress(WatchProgressRequest {})) };
                // Full: earlier ones were not taken either.
                let _ = stream.asks.try_send(ask);
                continue;
            }
            Ok(Err(status)) => return status.message().to_owned(),
            Ok(Ok(None)) => return "it ended the watch".to_owned(),
            Ok(Ok(Some(answer))) => answer,
        };
        if answer.compact_revision > 0 {
            return format!("changes after revision {last} are compacted up to {}", answer.compact_revision);
        }
        if answer.canceled {
            return format!("it cancelled the watch: {}", answer.cancel_reason);
        }
        // A sign from the past is none: the member is behind, or etcd was set back to an earlier state.
        if revision(answer.header.as_ref()) >= last {
            silences = 0;
        }
        parts_bytes +=
            answer.events.iter().filter_map(|e| e.kv.as_ref()).map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
        parts.extend(answer.events);
        if parts_bytes > COORDINATOR_BYTES_MAX {
            return format!("more than {COORDINATOR_BYTES_MAX} bytes at once");
        }
        if answer.fragment || parts.is_empty() {
            continue;
        }
        parts_bytes = 0;
        let changes: Vec<_> = parts.drain(..).filter_map(|event| change(shared, event)).collect();
        if let Some(change) = changes.last() {
            last = last.max(change.revision);
            if events.send(WatchEvent::Changed(changes)).await.is_err() {
                return "nobody listens".to_owned();
            }
        }
    }
}

fn change(shared: &Shared, event: Event) -> Option<KeyChange> {
    let kind = EventType::try_from(event.r#type).ok()?;
    let kv = event.kv?;
    let value = (kind == EventType::Put).then_some(kv.value);
    Some(KeyChange { key: shared.name(&kv.key)?, value, revision: positive(kv.mod_revision) })
}
