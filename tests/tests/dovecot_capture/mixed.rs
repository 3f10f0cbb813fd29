//! Random traffic of several sessions at once, beside the plugins that production systems load.
//!
//! Owns: the mix. What can hurt: a seed that finds something; it is printed, and `SEED` repeats it. Now and then two
//! sessions on a Maildir wait for each other's locks for a minute, which Dovecot does without us too. Refuses: caring
//! whether a single command is answered with OK: sessions work against each other on purpose.

use crate::model::Account;
use crate::tap::Tap;
use crate::{message, skipped};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use understudy_ring::Policy;
use understudy_tests::dovecot::{Dovecot, FORMATS};
use understudy_tests::imap::Imap;
use understudy_types::op::Op;

const STEPS: usize = 120;
/// Of a failed run: how many of the last operations on the list of mailboxes are shown.
const LISTS_SHOWN: usize = 60;
/// Why an account may be marked for comparison: what Dovecot itself left half done, so that no operation tells of it.
const UNDEFINED: [&str; 5] = [
    "a commit failed, perhaps half way",
    "messages were put into a Maildir past Dovecot",
    // It was read back from a mailbox that vanished, and committed all the same.
    "a message body was not written to the spool",
    // The mailbox vanished between the commit and the look at what it made (seen with Maildir).
    "flags cannot be read back",
    // Dovecot found the map of an mdbox damaged, and made it anew.
    "the storage was made anew from its files",
];

const CONFIG: &str = r#"
protocol lmtp {
  mail_plugins = $mail_plugins sieve
}
plugin {
  zlib_save = gz
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=1G
  sieve_before = %{dir}/mail/rules.sieve
}
"#;

const RULES: &str = r#"
require ["fileinto", "mailbox", "imap4flags"];
if header :contains "Subject" "filed" {
  addflag "\\Flagged";
  fileinto :create "Filed/Deep";
}
"#;

/// Names that all sessions create, rename and delete.
const SHARED: [&str; 8] =
    ["Shared", "Shared/Mid", "Shared/Mid/Leaf", "Shared/Other", "Else", "Else/Mid", "Else/Mid/Leaf", "Third"];

fn step(imap: &mut Imap, random: &mut StdRng, session: usize, n: usize) {
    let mailboxes = ["INBOX", "Work", "Work/Sub", "Filed/Deep", "Shared/Mid", "Else/Mid/Leaf"];
    let mailbox = *mailboxes.choose(random).expect("some");
    let (shared, other) = (*SHARED.choose(random).expect("some"), *SHARED.choose(random).expect("some"));
    let own = format!("Own{session}");
    let first = random.random_range(1..8);
    let range = format!("{first}:{}", first + random.random_range(0..3));
    let command = match random.random_range(0..122) {
        0..=29 => {
            let flags = *["", "(\\Seen)", "(\\Draft kw1 kw2)"].choose(random).expect("some");
            let _ = imap.append(mailbox, flags, &message("mixed", session * 10_000 + n));
            return;
        }
        30..=49 => {
            let sign = *["+", "-", ""].choose(random).expect("some");
            let flags = *["\\Seen", "\\Flagged kw1", "kw2", "\\Answered \\Seen"].choose(random).expect("some");
            format!("STORE {range} {sign}FLAGS ({flags})")
        }
        50..=59 => format!("COPY {range} {mailbox}"),
        60..=66 => format!("MOVE {range} {mailbox}"),
        67..=73 => format!("STORE {range} +FLAGS.SILENT (\\Deleted)"),
        74..=80 => "EXPUNGE".to_owned(),
        81..=84 => format!("CREATE {own}/New{n}"),
        85..=87 => format!("RENAME {own}/New{} {own}/Old{n}", n.saturating_sub(random.random_range(0..9))),
        88..=89 => format!("DELETE {own}/New{}", n.saturating_sub(random.random_range(0..9))),
        90..=91 => format!("RENAME {own} {own}x"),
        92..=93 => format!("SUBSCRIBE {own}/{n}"),
        94 => format!("FETCH {range} BODY[]"),
        95..=100 => format!("CREATE {shared}"),
        101..=106 => format!("RENAME {shared} {other}"),
        107..=110 => format!("DELETE {shared}"),
        111..=114 => {
            let _ = imap.append(shared, "", &message("shared", session * 10_000 + n));
            return;
        }
        115..=117 => format!("SELECT {shared}"),
        _ => format!("SELECT {mailbox}"),
    };
    let _ = imap.command(&command);
}

/// Why the account was marked for comparison, as often as it was logged.
fn marked(dovecot: &Dovecot, account: &str) -> Vec<String> {
    let what = format!("Error: understudy: {account}: ");
    let log = dovecot.log();
    let reasons = log.lines().filter_map(|line| line.split_once(&what)).map(|(_, why)| why.to_owned());
    reasons.collect()
}

/// Ends of processes that may be our doing, and what the plugin says of itself. A panic is Dovecot's own when none of
/// our functions is on the stack (zlib reads back what is saved into an sdbox whose folder is gone); what follows a
/// panic is signal 6.
fn ours(log: &str) -> Vec<String> {
    let bad = |line: &&str| {
        let of_stack = line.contains("Raw backtrace") && line.contains("us_");
        let signal = line.contains("killed with signal") && !line.contains("signal 6 ");
        of_stack || signal || line.contains("Error: understudy: /")
    };
    log.lines().filter(bad).map(str::to_owned).collect()
}

/// Operations on the list of mailboxes, a line each. The identity of an empty mailbox is told by each session that
/// opens it; here once.
fn briefly(ops: &[Op]) -> Vec<String> {
    let mut told = std::collections::HashSet::new();
    let lines = ops.iter().filter_map(|op| {
        let line = match op {
            Op::MailboxCreated { mailbox: m, .. } => format!("created {} {} {}", m.guid, m.uid_validity, m.name),
            Op::MailboxUpdated { mailbox: m, .. } => format!("updated {} {} {}", m.guid, m.uid_validity, m.name),
            Op::MailboxDeleted { guid, name, .. } => format!("deleted {guid} {name:?}"),
            Op::MailboxRenamed { guid, old_name, new_name, .. } => format!("renamed {guid:?} {old_name} {new_name}"),
            Op::Subscribed { name, .. } | Op::Unsubscribed { name } => format!("(un)subscribed {name}"),
            _ => return None,
        };
        (told.insert(line.clone()) || !line.starts_with("updated")).then_some(line)
    });
    lines.collect()
}

#[test]
fn random_traffic_beside_other_plugins_is_published_whole() {
    if skipped("random_traffic_beside_other_plugins_is_published_whole") {
        return;
    }
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| rand::rng().random());
    println!("SEED={seed}");
    let plugins = "zlib quota notify understudy";
    let dovecot = Dovecot::start(&FORMATS, plugins, CONFIG).expect("Dovecot starts");
    std::fs::write(dovecot.dir().join("mail/rules.sieve"), RULES).expect("written");
    let tap = Tap::start(dovecot.dir(), Policy::default());
    // `FORMAT`: only this one.
    let only = std::env::var("FORMAT").unwrap_or_default();
    let formats = FORMATS.into_iter().filter(|format| only.is_empty() || *format == only);
    for format in formats.clone() {
        let mut imap = dovecot.imap(format).expect("login");
        for command in ["SELECT INBOX", "CREATE Work", "CREATE Work/Sub", "CREATE Filed/Deep"] {
            imap.command(command).expect(command);
        }
        imap.logout();
    }
    std::thread::scope(|scope| {
        for (at, format) in formats.clone().enumerate() {
            for session in 0..3 {
                let dovecot = &dovecot;
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(seed ^ (at * 10 + session) as u64);
                    let mut imap = dovecot.imap(format).expect("login");
                    for n in 0..STEPS {
                        step(&mut imap, &mut random, session, n);
                    }
                    imap.logout();
                });
            }
            let dovecot = &dovecot;
            scope.spawn(move || {
                let mut lmtp = dovecot.lmtp().expect("lmtp");
                for n in 0..STEPS / 2 {
                    let subject = if n % 2 == 0 { "filed" } else { "kept" };
                    lmtp.deliver_one("s@example.test", format, &message(subject, n)).expect("delivered");
                }
            });
        }
    });
    tap.settle();
    for format in formats {
        let ops = tap.ops(format);
        let (mut published, stored) = (Account::of(&ops), Account::stored(&dovecot, format));
        published.lower_modseqs(&stored);
        let reasons = marked(&dovecot, format);
        let (count, late) = (ops.len(), published.late);
        println!("{format}: {count} operations, {late} of them of a mailbox that had been deleted");
        println!("{format}: GAPS {} {reasons:?}", reasons.len());
        let bad: Vec<&String> = reasons.iter().filter(|r| !UNDEFINED.iter().any(|u| r.starts_with(u))).collect();
        assert!(bad.is_empty(), "{format}, SEED={seed}: marked without need: {bad:?}");
        let difference = published.difference(&stored);
        if !reasons.is_empty() {
            println!("{format}: GAPS left to the comparison: {difference:?}");
        } else if let Some(difference) = difference {
            println!("{format}, SEED={seed}: {difference}");
            let lists = briefly(&ops);
            for line in &lists[lists.len().saturating_sub(LISTS_SHOWN)..] {
                println!("  {line}");
            }
            panic!("{format}, SEED={seed}: {difference}");
        }
        assert_eq!(tap.open_intents(format), [], "{format}");
    }
    assert_eq!(tap.strange(), Vec::<String>::new());
    // Sessions that work against each other make Dovecot complain.
    println!("Dovecot's own complaints: {:#?}", dovecot.complaints());
    assert_eq!(ours(&dovecot.log()), Vec::<String>::new());
}
