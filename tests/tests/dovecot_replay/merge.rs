//! Two real stores that were written to on both sides of a cut: afterwards the union is on both, equal by digest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use understudy_agent::apply::plan::{Live, plan};
use understudy_agent::blob::BlobStore;
use understudy_agent::blob::cache::BodyCache;
use understudy_agent::blob::directory::Directory;
use understudy_agent::blob::spool::Spool;
use understudy_agent::digest::{AccountState, first_difference};
use understudy_agent::merge::wire::{self, kind};
use understudy_agent::merge::{Ask, Forks, MergeEvent, Merger, Order, Tools, What, target};
use understudy_agent::store::dovecot::{DovecotConfig, DovecotStore};
use understudy_agent::store::{ApplyItem, DumpOptions, RaiseGap, Status, Store};
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_types::id::{Epoch, GroupId, NodeId};
use understudy_types::op::Op;

use crate::{assert_quiet, bodies, skipped, socket, start, store};

const GROUP: GroupId = GroupId(1);

/// The node that is active now.
struct Active {
    config: DovecotConfig,
    bodies: BodyCache,
    forks: Forks,
}

impl Ask for Active {
    fn ask(&self, _: NodeId, kind: u16, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut store = DovecotStore::new(self.config.clone());
        match kind {
            kind::CONTENT => {
                let account = wire::account_name(&body).ok_or("no account")?;
                Ok(target::content(state(&mut store, account)).to_vec())
            }
            kind::FORK => {
                let (was, account) = wire::take_account(&body).ok_or("no account")?;
                let fork = self.forks.after(GROUP, account, Epoch(was)).map_err(|error| error.to_string())?;
                Ok(wire::put_fork(fork.as_ref()))
            }
            kind::STATE => {
                let (_, account) = wire::take_account(&body).ok_or("no account")?;
                let mut row = Vec::new();
                let options = DumpOptions { messages: true, bodies: false };
                store
                    .dump(account, options, &mut |op| wire::put_op(&mut row, &op))
                    .map_err(|error| error.to_string())?;
                Ok(row)
            }
            kind::MERGE => {
                let (_, account, ops) = wire::take_merge(&body)?;
                let merged = target::merge(&mut store, &self.bodies, account, ops)?;
                serde_json::to_vec(&merged).map_err(|error| error.to_string())
            }
            other => Err(format!("kind {other}")),
        }
    }
}

fn state(store: &mut DovecotStore, account: &str) -> AccountState {
    let mut state = AccountState::default();
    let options = DumpOptions { messages: true, bodies: false };
    store.dump(account, options, &mut |op| state.add(op)).expect("dumped");
    state
}

/// Brings `to` to the state of `from`, as a snapshot does.
fn follow(from: &Dovecot, to: &Dovecot, account: &str) {
    let mut wanted = AccountState::default();
    let options = DumpOptions { messages: true, bodies: true };
    store(from).dump(account, options, &mut |op| wanted.add(op)).expect("dumped");
    let mut there = store(to);
    for _ in 0..8 {
        let ops = plan(&wanted, &state(&mut there, account), &Live::default());
        if ops.is_empty() {
            return;
        }
        let item = |op: Op| {
            let body = op.blob().map(|blob| from.dir().join("spool").join(blob.to_string()));
            let body_path = body.map(|body| {
                let path = bodies(to).join(body.file_name().expect("a name"));
                // Readable with the rights of the mail user, as a fetched body is.
                std::fs::write(&path, std::fs::read(body).expect("read")).expect("copied");
                path
            });
            ApplyItem { op, body_path }
        };
        let items: Vec<ApplyItem> = ops.into_iter().map(item).collect();
        for (item, outcome) in items.iter().zip(there.apply(account, &items).expect("applied")) {
            assert!(matches!(outcome.status, Status::Applied | Status::AlreadySo), "{item:?}: {outcome:?}");
        }
    }
    panic!("does not become equal: {:?}", first_difference(&wanted, &state(&mut there, account)));
}

fn message(name: &str) -> Vec<u8> {
    format!("Subject: {name}\r\n\r\nbody of {name}\r\n").into_bytes()
}

/// Subjects in a mailbox.
fn subjects(dovecot: &Dovecot, user: &str, mailbox: &str) -> Vec<String> {
    let query = ["fetch", "-u", user, "hdr.subject", "mailbox", mailbox, "all"];
    let text = dovecot.doveadm(&query).expect("doveadm fetch");
    let mut found: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("hdr.subject: ")).map(str::to_owned).collect();
    found.sort();
    found
}

fn until_done(told: &crossbeam::channel::Receiver<MergeEvent>) -> MergeEvent {
    loop {
        let event = told.recv_timeout(Duration::from_secs(120)).expect("an end");
        match event {
            MergeEvent::Done { .. } => return event,
            MergeEvent::Account { .. } => {}
            MergeEvent::Waiting { .. } => panic!("{event:?}"),
        }
    }
}

/// In each format: what both sides did while they were cut off from each other is on both in the end.
#[test]
fn both_sides_of_a_cut_become_one() {
    if skipped("both_sides_of_a_cut_become_one") {
        return;
    }
    let users: Vec<String> = FORMATS.iter().map(|format| format!("{format}1")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let (here, there) = (start(&names), start(&names));
    let files = tempfile::tempdir().expect("a folder");
    let storage: Arc<dyn BlobStore> = Arc::new(Directory::open(&files.path().join("blobs")).expect("opened"));
    let forks = Forks::open(&files.path().join("forks.redb")).expect("opened");

    for user in &names {
        let mut imap = here.imap(user).expect("login");
        for command in ["CREATE Work", "CREATE Old", "CREATE Gone", "SUBSCRIBE Work"] {
            imap.command(command).expect(command);
        }
        for n in 1..=4 {
            imap.append("INBOX", "", &message(&format!("both-{n}"))).expect("APPEND");
        }
        imap.append("Gone", "", &message("gone-1")).expect("APPEND");
        imap.logout();
        follow(&here, &there, user);
        let marks = store(&there).raise(user, RaiseGap::default()).expect("read");
        forks.keep(GROUP, Epoch(2), user, &marks).expect("kept");
        store(&there).raise(user, RaiseGap { uid: 1_000, modseq: 1_000_000 }).expect("raised");

        let mut imap = here.imap(user).expect("login");
        imap.append("INBOX", "(\\Flagged $Label)", &message("here-1")).expect("APPEND");
        imap.append("INBOX", "", &message("here-2")).expect("APPEND");
        imap.append("Gone", "", &message("gone-here")).expect("APPEND");
        for command in [
            "CREATE New/Deep",
            "SUBSCRIBE New/Deep",
            "RENAME Old Older",
            "SELECT INBOX",
            "UID STORE 1 +FLAGS (\\Seen)",
            "UID STORE 2 +FLAGS (\\Answered)",
            "UID STORE 3 +FLAGS (\\Deleted)",
            "EXPUNGE",
            "UID COPY 1 Work",
        ] {
            imap.command(command).expect(command);
        }
        imap.append("New/Deep", "", &message("deep")).expect("APPEND");
        imap.logout();

        let mut imap = there.imap(user).expect("login");
        imap.append("INBOX", "", &message("there-1")).expect("APPEND");
        for command in [
            "DELETE Gone",
            "SELECT INBOX",
            "UID STORE 2 +FLAGS (\\Flagged)",
            "UID STORE 4 +FLAGS (\\Deleted)",
            "EXPUNGE",
        ] {
            imap.command(command).expect(command);
        }
        imap.logout();
    }

    let config = DovecotConfig::new(socket(&there), Some(there.dir().join("spool")));
    let cache = BodyCache::open(&bodies(&there).join("merge"), storage.clone()).expect("opened");
    let active = Arc::new(Active { config, bodies: cache, forks });
    let (socket, spool): (PathBuf, PathBuf) = (socket(&here), here.dir().join("spool"));
    let own = DovecotConfig::new(socket, Some(spool.clone()));
    let tools = Tools {
        connect: Arc::new(move || -> Box<dyn Store> { Box::new(DovecotStore::new(own.clone())) }),
        peers: active.clone(),
        storage,
        spool: Spool::new(&spool),
        directory: files.path().join("merge"),
        group_of: Arc::new(|_| Some(GROUP)),
    };
    let (events, told) = crossbeam::channel::unbounded();
    let merger = Merger::start(tools, move |event| drop(events.send(event))).expect("started");
    let node = NodeId::new(2).expect("in range");
    let order =
        Order { group: GROUP, was: Epoch(1), epoch: Epoch(2), active: node, peers: vec![], accounts: users.clone() };
    merger.begin(order.clone());
    let done = until_done(&told);
    // here-1, here-2, gone-here, deep, and the copy in Work.
    let brought = 5 * u32::try_from(users.len()).expect("few");
    let lines = merger.report(GROUP, Epoch(2)).expect("a report");
    let as_asked = matches!(done, MergeEvent::Done { accounts: 3, brought: b, .. } if b == brought);
    assert!(as_asked, "{done:?}: {lines:#?}");
    for user in &names {
        assert_eq!(subjects(&there, user, "INBOX"), ["both-1", "both-2", "both-3", "here-1", "here-2", "there-1"]);
        assert_eq!(subjects(&there, user, "Gone"), ["gone-here"], "{user}");
        assert_eq!(subjects(&there, user, "Work"), ["both-1"], "{user}");
        assert_eq!(subjects(&there, user, "New/Deep"), ["deep"], "{user}");
        let mut imap = there.imap(user).expect("login");
        let folders: Vec<String> = imap.list().expect("LIST").into_iter().map(|(name, _)| name).collect();
        assert!(folders.contains(&"Older".to_owned()) && !folders.contains(&"Old".to_owned()), "{folders:?}");
        assert!(imap.subscribed().expect("LSUB").contains("New/Deep"), "{user}");
        let seen = imap.mailbox("INBOX").expect("EXAMINE");
        let flags = |uid: u64| seen.messages.iter().find(|m| m.uid == uid).map(|m| format!("{:?}", m.flags));
        assert!(flags(1).is_some_and(|flags| flags.contains("Seen")), "{user}: changed here only");
        assert!(flags(2).is_some_and(|f| f.contains("Flagged") && !f.contains("Answered")), "{user}: on both");
        let label = seen.messages.iter().find(|m| m.uid > 1_000 && format!("{:?}", m.flags).contains("Label"));
        assert!(label.is_some(), "{user}: a brought message keeps its flags: {:?}", seen.messages);
        imap.logout();

        let told: Vec<What> = lines.iter().filter(|l| l.account == *user).map(|l| l.finding.what).collect();
        for what in [
            What::FlagsBrought,
            What::FlagsConflict,
            What::ExpungedHere,
            What::MailboxDeletedThere,
            What::MailboxRenamed,
        ] {
            assert!(told.contains(&what), "{user}: {what:?} is not in {told:?}");
        }

        // Now it follows, and both are equal.
        follow(&there, &here, user);
        let (mine, theirs) = (state(&mut store(&here), user), state(&mut store(&there), user));
        assert_eq!(first_difference(&mine, &theirs), None, "{user}");
        assert_eq!(mine.digest(), theirs.digest(), "{user}");
    }

    // With another epoch everything is compared anew: nothing is left to bring.
    merger.begin(Order { epoch: Epoch(3), ..order });
    let again = until_done(&told);
    assert!(matches!(again, MergeEvent::Done { accounts: 3, brought: 0, conflicts: 0, .. }), "{again:?}");
    assert_quiet(&here);
    assert_quiet(&there);
}
