//! The coordinator against real etcds: the suite of the seam, members that freeze and die, TLS and users.
//!
//! Owns: etcds of its own on loopback ports. What can hurt: a host without etcd; the tests are then skipped by name.
//! Refuses: judging speed; what it measures it prints.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use understudy_agent::coordinator::client::{CoordinatorClient, CoordinatorEvent, TxnResult};
use understudy_agent::coordinator::conformance::{self, World};
use understudy_agent::coordinator::etcd::{Etcd, Options};
use understudy_agent::coordinator::{Coordinator, CoordinatorError, Txn, TxnOutcome, Write};
use understudy_tests::etcd::{Member, missing};
use understudy_types::id::ClusterId;

const HANG: Duration = Duration::from_secs(60);
const CLUSTER: ClusterId = ClusterId(0xc0);

/// `None`, with the line that says why, where there is no etcd.
fn members(test: &str, count: usize) -> Option<(tempfile::TempDir, Vec<Member>)> {
    if let Some(what) = missing() {
        println!("SKIPPED {test}: {what}; `cargo xtask bootstrap` installs it");
        return None;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let members = Member::cluster(dir.path(), count).expect("addresses");
    Some((dir, members))
}

fn started(members: &mut [Member]) {
    members.iter_mut().for_each(|member| member.spawn().expect("starts"));
    members.iter_mut().for_each(|member| member.wait().expect("serves"));
}

fn options(members: &[Member]) -> Options {
    Options { endpoints: members.iter().map(Member::url).collect(), ..Options::default() }
}

fn opened(options: &Options, timeout: Duration) -> Etcd {
    Etcd::open(options, CLUSTER, timeout).expect("opens")
}

fn put(key: &str, value: &str) -> Txn {
    let write = Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), ttl_ms: Some(10_000) };
    Txn { conditions: Vec::new(), writes: vec![write] }
}

#[expect(clippy::disallowed_methods, reason = "a wait of a test needs an end")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Tries until it is done; gives the number of tries that failed.
fn until_done(of: &mut dyn Coordinator, txn: &Txn) -> u32 {
    let begun = now();
    let mut failed = 0;
    loop {
        match of.transact(txn) {
            Ok(TxnOutcome::Done { .. }) => return failed,
            other => assert!(begun.elapsed() < HANG, "does not come back: {other:?}"),
        }
        failed += 1;
    }
}

struct One(Member);

impl World for One {
    fn open(&mut self, cluster: ClusterId, timeout: Duration) -> Box<dyn Coordinator> {
        Box::new(Etcd::open(&options(std::slice::from_ref(&self.0)), cluster, timeout).expect("opens"))
    }

    fn stop(&mut self) {
        self.0.kill();
    }

    fn start(&mut self) {
        self.0.start().expect("starts again");
    }

    fn freeze(&mut self) {
        self.0.freeze();
    }

    fn thaw(&mut self) {
        self.0.thaw();
    }

    fn compact(&mut self, _: ClusterId) {
        self.0.compact().expect("compacts");
    }

    fn frozen_is_unknown(&self) -> bool {
        true
    }
}

#[test]
fn etcd_conforms() {
    let Some((_dir, mut members)) = members("etcd_conforms", 1) else { return };
    started(&mut members);
    conformance::run(&mut One(members.remove(0)));
}

fn next(events: &Receiver<CoordinatorEvent>) -> CoordinatorEvent {
    events.recv_timeout(HANG).expect("an event")
}

/// The next answer; what else comes meanwhile is dropped.
fn answer(events: &Receiver<CoordinatorEvent>) -> (u64, TxnResult, u64) {
    loop {
        if let CoordinatorEvent::Answer { id, result, rtt_ns } = next(events) {
            return (id, result, rtt_ns);
        }
    }
}

#[test]
fn the_client_goes_on_after_a_freeze_and_after_a_restart() {
    let Some((_dir, mut members)) = members("the_client_goes_on_after_a_freeze_and_after_a_restart", 1) else { return };
    started(&mut members);
    let (sender, events) = unbounded();
    let of = opened(&options(&members), Duration::from_millis(400));
    let client = CoordinatorClient::start(Box::new(of), move |event| _ = sender.send(event)).expect("starts");
    assert!(matches!(next(&events), CoordinatorEvent::Snapshot(keys, _) if keys.is_empty()));
    for id in 0..100 {
        client.submit(id, put("lease/1", &id.to_string()));
        assert!(matches!(answer(&events), (_, TxnResult::Done { .. }, _)));
    }
    println!("100 renewals: {:?}", client.stats());
    members[0].freeze();
    for id in 100..103 {
        client.submit(id, put("lease/1", "frozen"));
    }
    for _ in 100..103 {
        assert!(matches!(answer(&events), (100..103, TxnResult::Unknown(_), 400_000_000..)));
    }
    members[0].thaw();
    let mut id = 200;
    loop {
        client.submit(id, put("lease/1", "thawed"));
        if let (_, TxnResult::Done { .. }, _) = answer(&events) {
            break;
        }
        id += 1;
        assert!(id < 400, "it is not reached again");
    }
    members[0].kill();
    let mut lost = 0;
    client.submit(1000, put("lease/1", "killed"));
    loop {
        match next(&events) {
            CoordinatorEvent::Lost { .. } => lost += 1,
            CoordinatorEvent::Answer { id: 1000, result, .. } => {
                assert!(matches!(result, TxnResult::Unreachable(_) | TxnResult::Unknown(_)));
                break;
            }
            _ => {}
        }
    }
    // Until it is known to be gone for good, and said so once.
    std::thread::sleep(Duration::from_millis(1500));
    lost += events.try_iter().filter(|event| matches!(event, CoordinatorEvent::Lost { .. })).count();
    assert_eq!(lost, 1);
    members[0].start().expect("starts again");
    let snapshot = loop {
        match next(&events) {
            CoordinatorEvent::Snapshot(keys, _) => break keys,
            CoordinatorEvent::Lost { reason } => panic!("told twice: {reason}"),
            _ => {}
        }
    };
    assert_eq!(snapshot[0].key, "lease/1");
    client.submit(2000, put("group/1", "x"));
    loop {
        if let CoordinatorEvent::Changed(changes) = next(&events) {
            assert_eq!((changes.len(), changes[0].key.as_str()), (1, "group/1"));
            break;
        }
    }
}

#[test]
fn three_members_serve_while_any_one_is_frozen_or_dead() {
    let Some((_dir, mut members)) = members("three_members_serve_while_any_one_is_frozen_or_dead", 3) else { return };
    started(&mut members);
    let mut of = opened(&options(&members), Duration::from_secs(1));
    until_done(&mut of, &put("n", "first"));
    for (index, member) in members.iter_mut().enumerate() {
        member.freeze();
        let failed = until_done(&mut of, &put("n", &format!("frozen {index}")));
        println!("member {index} frozen: {failed} transactions failed before the next was done");
        for n in 0..20 {
            // Another member may have been the leader; an election takes a second.
            until_done(&mut of, &put("n", &n.to_string()));
        }
        assert!(of.snapshot().is_ok());
        member.thaw();
        member.wait().expect("serves again");
    }
    for (index, member) in members.iter_mut().enumerate() {
        member.kill();
        let failed = until_done(&mut of, &put("n", &format!("dead {index}")));
        println!("member {index} dead: {failed} transactions failed before the next was done");
        assert!(!of.snapshot().expect("a snapshot").keys.is_empty());
        member.start().expect("starts again");
    }
    // Without a majority nothing is written, and nothing is said to be.
    members[0].kill();
    members[1].kill();
    for _ in 0..3 {
        let outcome = of.transact(&put("n", "nobody"));
        let failed = matches!(outcome, Err(CoordinatorError::Unknown { .. } | CoordinatorError::Unreachable { .. }));
        assert!(failed, "{outcome:?}");
    }
    started(&mut members[..2]);
    until_done(&mut of, &put("n", "last"));
    assert_eq!(of.snapshot().expect("a snapshot").keys[0].value, b"last");
}

/// An authority, and certificates of it: files in a folder.
fn certificates(dir: &Path) -> (PathBuf, (PathBuf, PathBuf), (PathBuf, PathBuf)) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = write("ca.pem", &params.self_signed(&key).expect("signed").pem());
    let issuer = Issuer::new(params, key);
    let pair = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        (write(&format!("{name}.pem"), &certificate.pem()), write(&format!("{name}.key"), &key.serialize_pem()))
    };
    (authority, pair("server"), pair("client"))
}

#[test]
fn tls_with_certificates_of_both_sides() {
    let Some((dir, mut members)) = members("tls_with_certificates_of_both_sides", 1) else { return };
    let (authority, server, client) = certificates(dir.path());
    members[0].set_tls(&authority, &server.0, &server.1);
    started(&mut members);
    let with = Options { authority: Some(authority.clone()), pair: Some(client.clone()), ..options(&members) };
    let mut of = opened(&with, Duration::from_secs(20));
    assert!(matches!(of.transact(&put("a", "1")), Ok(TxnOutcome::Done { .. })));
    assert_eq!(of.snapshot().expect("a snapshot").keys.len(), 1);
    let short = Duration::from_millis(700);
    let mut nobody = opened(&Options { pair: None, ..with.clone() }, short);
    assert!(matches!(nobody.transact(&put("a", "2")), Err(CoordinatorError::Unreachable { .. })));
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("made");
    let (stranger, ..) = certificates(&other);
    let mut distrusting = opened(&Options { authority: Some(stranger), ..with.clone() }, short);
    let outcome = distrusting.transact(&put("a", "3"));
    assert!(
        matches!(&outcome, Err(CoordinatorError::Unreachable { reason, .. }) if reason.contains("TLS")),
        "{outcome:?}"
    );
    for bad in [
        Options { authority: None, ..with.clone() },
        Options { authority: Some(dir.path().join("nothing")), ..with.clone() },
        Options { authority: Some(client.1.clone()), ..with.clone() },
        Options { pair: Some((client.0.clone(), server.1.clone())), ..with.clone() },
        Options { endpoints: Vec::new(), ..with.clone() },
    ] {
        assert!(matches!(Etcd::open(&bad, CLUSTER, short), Err(CoordinatorError::Config(_))), "{bad:?}");
    }
    assert_eq!(of.snapshot().expect("a snapshot").keys[0].value, b"1");
}

/// Runs etcdctl as an administrator would; `docs/coordinator.md` has the same commands.
fn etcdctl(member: &Member, words: &str) {
    let output = Command::new("etcdctl").arg(format!("--endpoints={}", member.url())).args(words.split(' ')).output();
    let output = output.expect("etcdctl starts");
    assert!(output.status.success(), "etcdctl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn users_log_in_again_when_etcd_has_forgotten_them() {
    let name = "users_log_in_again_when_etcd_has_forgotten_them";
    let Some((dir, mut members)) = members(name, 1) else { return };
    if !Path::new("/usr/bin/etcdctl").exists() {
        println!("SKIPPED {name}: no etcdctl (package etcd-client); `cargo xtask bootstrap` installs it");
        return;
    }
    started(&mut members);
    for words in [
        "user add root:rootpass",
        "user grant-role root root",
        "user add understudy:secret",
        "role add understudy",
        "role grant-permission understudy readwrite --prefix=true /understudy/00000000000000c0/",
        "user grant-role understudy understudy",
        "auth enable",
    ] {
        etcdctl(&members[0], words);
    }
    let (right, wrong) = (dir.path().join("right"), dir.path().join("wrong"));
    std::fs::write(&right, "secret\nand a second line\n").expect("written");
    std::fs::write(&wrong, "guess").expect("written");
    let user = |file: &Path| Options { user: Some(("understudy".to_owned(), file.to_owned())), ..options(&members) };
    let mut of = opened(&user(&right), HANG);
    assert!(matches!(of.transact(&put("a", "1")), Ok(TxnOutcome::Done { .. })));
    let (sender, events) = unbounded();
    let revision = of.snapshot().expect("a snapshot").revision;
    let _watch = of.watch(revision, Box::new(move |event| _ = sender.send(event))).expect("a watch");
    of.transact(&put("a", "2")).expect("done");
    events.recv_timeout(HANG).expect("an event");
    let mut nobody = opened(&options(&members), Duration::from_secs(5));
    let outcome = nobody.transact(&put("a", "3"));
    assert!(matches!(outcome, Err(CoordinatorError::Config(_))), "{outcome:?}");
    assert!(matches!(nobody.snapshot(), Err(CoordinatorError::Config(_))));
    let mut guesser = opened(&user(&wrong), Duration::from_secs(5));
    let outcome = guesser.transact(&put("a", "3"));
    assert!(matches!(outcome, Err(CoordinatorError::Refused { .. } | CoordinatorError::Config(_))), "{outcome:?}");
    // Each cluster has keys of its own, and a user only what it was given.
    let mut trespasser = Etcd::open(&user(&right), ClusterId(0xc1), Duration::from_secs(5)).expect("opens");
    let outcome = trespasser.transact(&put("a", "3"));
    assert!(matches!(outcome, Err(CoordinatorError::Refused { .. })), "{outcome:?}");
    let outcome = trespasser.snapshot();
    assert!(matches!(outcome, Err(CoordinatorError::Refused { .. })), "{outcome:?}");
    let outcome = trespasser.watch(1, Box::new(|_| {}));
    assert!(outcome.is_err(), "{outcome:?}");
    // Its tokens are in memory only.
    members[0].kill();
    members[0].start().expect("starts again");
    until_done(&mut of, &put("a", "4"));
    assert_eq!(of.snapshot().expect("a snapshot").keys[0].value, b"4");
}
