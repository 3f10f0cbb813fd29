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

fn step(imap: &mut Imap, random: &mut StdRng, session: usize, n: usize) {
    let mailboxes = ["INBOX", "Work", "Work/Sub", "Filed/Deep"];
    let mailbox = *mailboxes.choose(random).expect("some");
    let own = format!("Own{session}");
    let first = random.random_range(1..8);
    let range = format!("{first}:{}", first + random.random_range(0..3));
    let command = match random.random_range(0..100) {
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
        _ => format!("SELECT {mailbox}"),
    };
    let _ = imap.command(&command);
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
    for format in FORMATS {
        let mut imap = dovecot.imap(format).expect("login");
        for command in ["SELECT INBOX", "CREATE Work", "CREATE Work/Sub", "CREATE Filed/Deep"] {
            imap.command(command).expect(command);
        }
        imap.logout();
    }
    std::thread::scope(|scope| {
        for (at, format) in FORMATS.into_iter().enumerate() {
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
    for format in FORMATS {
        let ops = tap.ops(format);
        let (mut published, stored) = (Account::of(&ops), Account::stored(&dovecot, format));
        published.lower_modseqs(&stored);
        let lists: Vec<&Op> = ops.iter().filter(|op| (1..=6).contains(&op.kind())).collect();
        assert_eq!(published.difference(&stored), None, "{format}, SEED={seed}: {lists:#?}");
        assert_eq!(tap.open_intents(format), [], "{format}");
    }
    assert_eq!(tap.strange(), Vec::<String>::new());
    // Sessions that work against each other make Dovecot complain, but never of us.
    let ours = |line: &&String| ["Panic", "Fatal", "Error: understudy"].iter().any(|b| line.contains(b));
    let complaints = dovecot.complaints();
    println!("Dovecot's own complaints: {complaints:#?}");
    let bad: Vec<&String> = complaints.iter().filter(ours).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
