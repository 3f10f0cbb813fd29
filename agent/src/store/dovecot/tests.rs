//! The client against services that lie, hang and go away.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(200);

/// Reads one request; gives its command, number and body.
fn request(stream: &mut UnixStream) -> Option<(u16, u32, Vec<u8>)> {
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; len - 8];
    stream.read_exact(&mut body).ok()?;
    let command = u16::from_le_bytes([head[4], head[5]]);
    Some((command, u32::from_le_bytes(head[8..].try_into().unwrap()), body))
}

fn reply(command: u16, status: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(8 + body.len()).unwrap().to_le_bytes().to_vec();
    out.extend((command | 0x8000).to_le_bytes());
    out.extend(status.to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(body);
    out
}

fn hello(number: u32) -> Vec<u8> {
    reply(command::HELLO, 0, number, &[&1u32.to_le_bytes()[..], &4u32.to_le_bytes(), b"test"].concat())
}

/// A service that serves `connections` one after the other: HELLO and USER as they should be, then what `answer`
/// says to anything else; `None` closes.
fn service(
    folder: &tempfile::TempDir,
    connections: usize,
    mut answer: impl FnMut(u16, u32, &[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> (DovecotStore, thread::JoinHandle<()>) {
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            let mut stream = stream.unwrap();
            while let Some((command, number, body)) = request(&mut stream) {
                let bytes = match command {
                    command::HELLO => Some(hello(number)),
                    command::USER => Some(reply(command, 0, number, &[])),
                    _ => answer(command, number, &body),
                };
                match bytes {
                    Some(bytes) => stream.write_all(&bytes).unwrap(),
                    None => break,
                }
            }
        }
    });
    (DovecotStore::new(DovecotConfig { socket, spool: None, timeout: TIMEOUT, timeout_dump: [TIMEOUT; 2] }), thread)
}

fn item() -> ApplyItem {
    ApplyItem { op: Op::Unsubscribed { name: "a".into() }, body_path: Some("/spool/body".into()) }
}

#[test]
fn operations_carry_the_path_of_their_body() {
    let bytes = wire::encode(&item());
    assert_eq!(Op::decode(&bytes).unwrap(), item().op);
    assert!(bytes.ends_with(b"/spool/body"));
}

#[test]
fn an_absent_service_is_named() {
    let mut store = DovecotStore::new(DovecotConfig::new("/nonexistent/socket".into(), None));
    let error = store.apply("a", &[item()]).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
}

#[test]
fn outcomes_come_in_order_and_the_first_failure_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, thread) = service(&folder, 1, |command, number, body| {
        assert_eq!(body[..4], 2u32.to_le_bytes());
        let outcome = [&[0, 0, 0, 0][..], &[0; 4], &[3, 0, 0, 0], &2u32.to_le_bytes(), b"no"].concat();
        Some(reply(command, 0, number, &[&2u32.to_le_bytes()[..], &outcome].concat()))
    });
    let outcomes = store.apply("a", &[item(), item()]).unwrap();
    assert_eq!(outcomes[0].status, Status::Applied);
    assert_eq!(outcomes[1], Outcome { status: Status::NoMailbox, detail: "no".into() });
    drop(store);
    thread.join().unwrap();
}

#[test]
fn a_service_that_went_away_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut calls = 0;
    let (mut store, thread) = service(&folder, 2, move |command, number, _| {
        calls += 1;
        // The first connection dies at its second request.
        (calls != 2).then(|| reply(command, 0, number, &[&1u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0; 4]].concat()))
    });
    for _ in 0..3 {
        assert_eq!(store.apply("a", &[item()]).unwrap()[0].status, Status::AlreadySo);
    }
    drop(store);
    thread.join().unwrap();
}

#[test]
fn a_service_that_hangs_times_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, thread) = service(&folder, 1, |_, _, _| Some(Vec::new()));
    assert!(matches!(store.apply("a", &[item()]), Err(StoreError::TimedOut { timeout_ms: 200 })));
    drop(store);
    thread.join().unwrap();
}

/// Every reply that is cut or has one bit turned is an outcome or an error, never a panic and never a wait.
#[test]
fn damaged_replies_are_errors() {
    let good = |command, number| {
        let outcome = [&[8, 0, 0, 0][..], &4u32.to_le_bytes(), b"text"].concat();
        reply(command, 0, number, &[&1u32.to_le_bytes()[..], &outcome].concat())
    };
    let bits = good(0, 0).len() * 8;
    let folder = tempfile::tempdir().unwrap();
    let mut bit = 0;
    let (mut store, thread) = service(&folder, bits, move |command, number, _| {
        let mut bytes = good(command, number);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bit += 1;
        // A length that is too long waits for bytes: they do not come, because the service goes.
        let len = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize + 4;
        bytes.resize(len.min(bytes.len() + 64), 0);
        Some(bytes)
    });
    store.config.timeout = Duration::from_millis(20);
    for _ in 0..bits {
        let _ = store.apply("a", &[item()]);
        store.drop_connection();
    }
    drop(store);
    thread.join().unwrap();
}

#[test]
fn a_dump_ends_with_an_empty_reply_and_a_failure_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut dumps = 0;
    let (mut store, thread) = service(&folder, 1, move |command, number, _| {
        dumps += 1;
        let op = item().op.encode();
        let run = [&u32::try_from(op.len()).unwrap().to_le_bytes()[..], &op].concat();
        let last = if dumps == 1 { reply(command, 0, number, &[]) } else { reply(command, 7, number, b"disk") };
        Some([reply(command, 0, number, &run), last].concat())
    });
    let mut ops = Vec::new();
    store.dump("a", DumpOptions::default(), &mut |op| ops.push(op)).unwrap();
    assert_eq!(ops, [item().op]);
    let error = store.dump("a", DumpOptions::default(), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, StoreError::Failed { detail, .. } if detail == "disk"), "{error}");
    assert!(store.connection.is_some(), "a failure of the account is not one of the connection");
    drop(store);
    thread.join().unwrap();
}
