//! Requests that nobody should send: the service answers or hangs up, and goes on for the next.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use understudy_agent::store::{ApplyItem, Status, Store as _};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::{Encoder, Mailbox, Message, Op, tag};

use crate::{bodies, skipped, socket, start, store};

/// As `ps` shows it: the kernel keeps 15 bytes of a name.
const PROCESS: &str = "understudy-repl";

fn connect(dovecot: &Dovecot) -> UnixStream {
    let stream = UnixStream::connect(socket(dovecot)).expect("the service listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn message(command: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(8 + body.len()).unwrap().to_le_bytes().to_vec();
    out.extend(command.to_le_bytes());
    out.extend([0; 2]);
    out.extend(number.to_le_bytes());
    out.extend(body);
    out
}

/// Reads one reply: its status, request number and body. `None` when the service hung up.
fn reply(stream: &mut UnixStream) -> Option<(u16, u32, Vec<u8>)> {
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
    let mut body = vec![0; len - 8];
    stream.read_exact(&mut body).ok()?;
    Some((u16::from_le_bytes([head[6], head[7]]), u32::from_le_bytes(head[8..].try_into().unwrap()), body))
}

fn ask(stream: &mut UnixStream, command: u16, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    stream.write_all(&message(command, 7, body)).ok()?;
    let (status, number, body) = reply(stream)?;
    assert_eq!(number, 7);
    Some((status, body))
}

fn session(dovecot: &Dovecot, user: &str) -> UnixStream {
    let mut stream = connect(dovecot);
    assert_eq!(ask(&mut stream, 1, &1u32.to_le_bytes()).expect("hello").0, 0);
    assert_eq!(ask(&mut stream, 2, user.as_bytes()).expect("user").0, 0);
    stream
}

fn apply_body(op: &[u8]) -> Vec<u8> {
    let mut body = 1u32.to_le_bytes().to_vec();
    body.extend(u32::try_from(op.len()).unwrap().to_le_bytes());
    body.extend(op);
    body
}

/// One operation of each kind, with every field that it may have.
fn samples(body_path: &str) -> Vec<Vec<u8>> {
    let guid = MailboxGuid([7; 16]);
    let mailbox =
        Mailbox { guid, name: "Work/Sub".into(), uid_validity: 5, next_uid: 9, highest_modseq: 30, directory: false };
    let message = Message {
        mailbox: guid,
        mailbox_name: "Work/Sub".into(),
        uid_validity: 5,
        uid: 20,
        guid: "0123456789abcdef0123456789abcdef".into(),
        blob: Some(BlobId([3; 32])),
        received_s: 1_600_000_000,
        received_tz_minutes: 60,
        saved_s: 1_600_000_001,
        flags: 9,
        keywords: vec!["$Label".into()],
        modseq: 40,
        ..Message::default()
    };
    let (name, text) = (String::from("Work"), String::from("0123456789abcdef0123456789abcdef"));
    let (source, keywords) = (guid, vec!["k".to_owned()]);
    let ops = [
        Op::MailboxCreated { mailbox: mailbox.clone(), snapshot: 0 },
        Op::MessageSaved { message: message.clone(), snapshot: 1 },
        Op::MessageCopied { message, source, source_uid: 20, moved: true },
        Op::FlagsSet { mailbox: guid, uid: 20, guid: text.clone(), flags: 3, keywords, modseq: 50 },
        Op::MessageExpunged { mailbox: guid, uid: 20, guid: text },
        Op::Subscribed { name: name.clone(), snapshot: 0 },
        Op::Unsubscribed { name: name.clone() },
        Op::AttributeSet {
            mailbox: Some(guid),
            private: true,
            key: "comment".into(),
            value: Some(vec![65]),
            snapshot: 0,
        },
        Op::MailboxUpdated { mailbox, snapshot: 2 },
        Op::MailboxRenamed { guid, old_name: "Work/Sub".into(), new_name: "Work/New".into() },
        Op::MailboxDeleted { guid, name },
        Op::ResyncEnd { snapshot: 1 },
    ];
    let mut all: Vec<Vec<u8>> = ops.iter().map(Op::encode).collect();
    for at in [1, 2] {
        let mut path = Encoder::new(0);
        path.text(tag::BODY_PATH, body_path);
        all[at].extend(&path.finish()[8..]);
        let fields = u32::try_from(all[at].len() - 8).unwrap();
        all[at][4..8].copy_from_slice(&fields.to_le_bytes());
    }
    all
}

/// No process of the service died, and none complained of itself.
fn assert_alive(dovecot: &Dovecot) {
    for bad in ["Panic", "Fatal", "killed with signal", "Raw backtrace", "Out of memory"] {
        assert!(!dovecot.log().contains(bad), "`{bad}` in the log: {}", dovecot.log());
    }
}

#[test]
fn one_turned_bit_never_ends_the_service() {
    if skipped("one_turned_bit_never_ends_the_service") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().map(|format| format!("{format}1")).collect();
    let dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let path = bodies(&dovecot).join("body");
    std::fs::write(&path, b"Subject: x\n\nbody\n").unwrap();
    for (user, stride) in users.iter().zip([3, 1, 3]) {
        let mut stream = session(&dovecot, user);
        let pids = dovecot.processes(PROCESS);
        let mut answered = [0usize; 16];
        // The operations are turned in every bit (in two formats in every third: they differ below the parser only).
        for (n, sample) in samples(path.to_str().unwrap()).iter().enumerate() {
            for bit in (n % stride..sample.len() * 8).step_by(stride) {
                let mut op = sample.clone();
                op[bit / 8] ^= 1 << (bit % 8);
                let (status, body) = ask(&mut stream, 3, &apply_body(&op)).unwrap_or_else(|| {
                    panic!("{user}: the service hung up at operation {n}, bit {bit}: {}", dovecot.log())
                });
                assert_eq!(status, 0, "operation {n}, bit {bit}");
                answered[usize::from(u16::from_le_bytes([body[4], body[5]]))] += 1;
            }
            let _ = ask(&mut stream, 3, &apply_body(sample));
        }
        assert!(answered[0] > 0 && answered[9] > 1000 / stride, "{answered:?}");
        let now = dovecot.processes(PROCESS);
        assert!(pids.iter().all(|pid| now.contains(pid)), "a process of the service was replaced");
    }
    assert_alive(&dovecot);
}

#[test]
fn damaged_requests_are_refused() {
    if skipped("damaged_requests_are_refused") {
        return;
    }
    let dovecot = start(&["sdbox1"]);
    // Whole requests of the wrong form: each is answered, and the connection goes on.
    let mut stream = connect(&dovecot);
    assert_eq!(ask(&mut stream, 2, b"sdbox1").expect("an answer").0, 9, "before HELLO");
    assert_eq!(ask(&mut stream, 1, &9u32.to_le_bytes()).expect("an answer").0, 9);
    assert_eq!(ask(&mut stream, 1, &1u32.to_le_bytes()).expect("an answer").0, 0);
    assert_eq!(ask(&mut stream, 3, &apply_body(b"")).expect("an answer").0, 9, "before USER");
    assert_eq!(ask(&mut stream, 8, &[0; 12]).expect("an answer").0, 9, "before USER");
    for name in [&b""[..], b"\xff", b"a\0b", b"a\nb", &[b'x'; 513]] {
        assert_eq!(ask(&mut stream, 2, name).expect("an answer").0, 9);
    }
    assert_eq!(ask(&mut stream, 2, b"nobody").expect("an answer").0, 2);
    assert_eq!(ask(&mut stream, 2, b"sdbox1").expect("an answer").0, 0);
    for body in [&[][..], &[1, 0, 0], &[255; 4], &[255; 64], &[1, 0, 0, 0, 200, 0, 0, 0, 1], &[0, 0, 0, 0, 1]] {
        assert_eq!(ask(&mut stream, 3, body).expect("an answer").0, 9, "{body:?}");
    }
    for body in [&[][..], &[0; 19], &[0; 21], &[4; 20], &[2; 20]] {
        assert_eq!(ask(&mut stream, 4, body).expect("an answer").0, 9, "{body:?}");
    }
    for body in [&[][..], &[0; 4], &[0; 11], &[1; 13]] {
        assert_eq!(ask(&mut stream, 8, body).expect("an answer").0, 9, "{body:?}");
    }
    for body in [&[][..], &[1, 0, 0], &[1, 0, 0, 0], &[255; 4], &[1, 0, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 1]] {
        assert_eq!(ask(&mut stream, 9, body).expect("an answer").0, 9, "{body:?}");
    }
    assert_eq!(ask(&mut stream, 5, b"relative").expect("an answer").0, 9);
    assert_eq!(ask(&mut stream, 6, b"x").expect("an answer").0, 9);
    assert_eq!(ask(&mut stream, 99, b"").expect("an answer").0, 9);
    // A length out of range cannot be got over: the service hangs up.
    for len in [0u32, 7, 64 * 1024 * 1024 + 1, u32::MAX] {
        let mut stream = connect(&dovecot);
        let mut bytes = message(1, 1, &1u32.to_le_bytes());
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        stream.write_all(&bytes).unwrap();
        assert_eq!(reply(&mut stream), None, "length {len}");
    }
    // One that ends in the middle.
    let whole = message(1, 1, &1u32.to_le_bytes());
    for len in 0..whole.len() {
        let mut stream = connect(&dovecot);
        stream.write_all(&whole[..len]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(reply(&mut stream), None);
    }
    // Noise, with and without a proper beginning.
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..200 {
        let mut stream = if round % 2 == 0 { connect(&dovecot) } else { session(&dovecot, "sdbox1") };
        let mut noise = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut noise);
        if round % 4 == 1 {
            noise = message(random.random_range(0..12), 3, &noise);
        }
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        while reply(&mut stream).is_some() {}
    }
    assert_alive(&dovecot);
    let op = Op::Subscribed { name: "still there".into(), snapshot: 0 };
    let outcomes = store(&dovecot).apply("sdbox1", &[ApplyItem { op, body_path: None }]).unwrap();
    assert_eq!(outcomes[0].status, Status::Applied);
}

/// Values that the format allows and a store may not like: each is answered, and the account can be read afterwards.
#[test]
fn strange_values_are_answered() {
    if skipped("strange_values_are_answered") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().map(|format| format!("{format}1")).collect();
    let dovecot = start(&users.iter().map(String::as_str).collect::<Vec<_>>());
    let body_path = Some(bodies(&dovecot).join("body"));
    std::fs::write(body_path.as_ref().unwrap(), b"Subject: x\n\nbody\n").unwrap();
    let long = "x".repeat(4096);
    let deep = "d/".repeat(1500);
    let names = [
        "/",
        "//",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../../x",
        "a/../../x",
        "~",
        "~root",
        "~/x",
        "*",
        "%",
        "INBOX/",
        "inbox",
        "inbox/x",
        "INBOX/INBOX",
        "cur",
        "new",
        "tmp",
        "dbox-Mails",
        "mailboxes",
        ".a",
        "a.b",
        "\u{fffe}",
        "\u{10ffff}",
        "e\u{301}",
        "&",
        "&AOQ",
        "&-",
        "a\\b",
        "\"",
        " ",
        " a ",
        "dovecot.index",
        "subscriptions",
        &long,
        &deep,
    ];
    let numbers = [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ff00, 0xffff_fff0, 0xffff_fffe, u32::MAX];
    for user in &users {
        let mut store = store(&dovecot);
        let mut ops = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let guid = MailboxGuid([u8::try_from(n).unwrap() + 1; 16]);
            let mailbox = Mailbox { guid, name: (*name).into(), uid_validity: 5, ..Mailbox::default() };
            let message = Message { mailbox: guid, uid: 1, guid: "g".into(), ..Message::default() };
            ops.push(Op::MailboxCreated { mailbox: mailbox.clone(), snapshot: 0 });
            ops.push(Op::MessageSaved { message, snapshot: 0 });
            ops.push(Op::Subscribed { name: (*name).into(), snapshot: 0 });
            ops.push(Op::MailboxRenamed { guid, old_name: (*name).into(), new_name: format!("{name}x") });
            ops.push(Op::MailboxRenamed {
                guid,
                old_name: (*name).into(),
                new_name: names[(n + 1) % names.len()].into(),
            });
            ops.push(Op::AttributeSet {
                mailbox: Some(guid),
                private: true,
                key: (*name).chars().take(200).collect(),
                value: Some(vec![65]),
                snapshot: 0,
            });
            ops.push(Op::MailboxCreated {
                mailbox: Mailbox { guid: MailboxGuid::default(), directory: true, ..mailbox },
                snapshot: 0,
            });
            ops.push(Op::MailboxDeleted { guid: MailboxGuid::default(), name: (*name).into() });
        }
        let guid = MailboxGuid([0xee; 16]);
        for number in numbers {
            let wide = u64::from(number) << 32 | u64::from(number);
            let mailbox = Mailbox {
                guid,
                name: "Numbers".into(),
                uid_validity: number,
                next_uid: number,
                highest_modseq: wide,
                directory: false,
            };
            ops.push(Op::MailboxUpdated { mailbox, snapshot: 0 });
            for date in [wide.cast_signed(), -1, i64::from(i32::MIN), i64::from(u32::MAX), i64::MIN] {
                let message = Message {
                    mailbox: guid,
                    uid: number,
                    guid: format!("g{number}"),
                    keywords: vec!["a b".into(), "(".into(), "\\Seen".into(), "x".repeat(1000), "\u{e4}".into()],
                    received_s: date,
                    received_tz_minutes: number.cast_signed(),
                    saved_s: date,
                    modseq: wide,
                    ..Message::default()
                };
                ops.push(Op::MessageSaved { message, snapshot: 0 });
            }
            ops.push(Op::FlagsSet {
                mailbox: guid,
                uid: number,
                guid: String::new(),
                flags: 1,
                keywords: vec!["]".into(), "%".into()],
                modseq: wide,
            });
            ops.push(Op::MessageExpunged { mailbox: guid, uid: number, guid: String::new() });
            ops.push(Op::MailboxDeleted { guid, name: String::new() });
        }
        let mut applied = 0;
        for op in &ops {
            let body_path = op.blob().is_none().then(|| body_path.clone()).flatten();
            let outcome = store.apply(user, &[ApplyItem { op: op.clone(), body_path }]);
            let outcome = outcome.unwrap_or_else(|error| panic!("{user}: {op:?}: {error} {}", dovecot.log()));
            applied += usize::from(outcome[0].status == Status::Applied);
        }
        assert!(applied > 40, "{user}: only {applied} applied");
        let options = understudy_agent::store::DumpOptions { messages: true, bodies: false };
        store.dump(user, options, &mut |_| {}).unwrap_or_else(|error| panic!("{user}: {error} {}", dovecot.log()));
        assert!(!dovecot.dir().join("mail/x").exists() && !dovecot.dir().join("x").exists(), "out of the folder");
    }
    assert_alive(&dovecot);
}
