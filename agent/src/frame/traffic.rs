//! Generated mailbox traffic: samples for the dictionary, bodies for tests and benches.
//!
//! Owns: a fixed mix of operations as a mail store commits them, from a seed; the same seed gives the same bytes for
//! ever, because the dictionary is made from them. Refuses: looking like anybody's real mail.

use understudy_types::id::{BlobId, MailboxGuid};
use understudy_types::op::{Mailbox, Message, Op};

/// Made-up traffic.
#[derive(Clone, Debug)]
pub struct Traffic {
    state: u64,
    clock_ns: u64,
}

const DOMAINS: [&str; 6] =
    ["example.test", "mail.example.org", "example.com", "example.net", "kunden.example.de", "university.example.edu"];
const NAMES: [&str; 12] = [
    "anna",
    "b.meyer",
    "carlos",
    "dmitri",
    "info",
    "postmaster",
    "sales",
    "u0001",
    "u0742",
    "yuki",
    "zoe.smith",
    "support",
];
const MAILBOXES: [&str; 14] = [
    "INBOX",
    "Sent",
    "Sent Items",
    "Sent Messages",
    "Drafts",
    "Trash",
    "Deleted Items",
    "Junk",
    "Spam",
    "Archive",
    "Archive/2025",
    "INBOX/Projects",
    "INBOX.Lists.kernel",
    "Notes",
];
const KEYWORDS: [&str; 10] = [
    "$Forwarded",
    "$Junk",
    "NonJunk",
    "Junk",
    "$NotJunk",
    "$MDNSent",
    "$label1",
    "$label2",
    "$HasAttachment",
    "$MailFlagBit0",
];
const ATTRIBUTES: [&str; 3] =
    ["/private/comment", "/shared/comment", "/private/vendor/vendor.dovecot/pvt/server/sieve/default"];
const HOSTS: [&str; 3] = ["mx1", "imap-backend-03", "store2.example.test"];

impl Traffic {
    /// Traffic of that seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, clock_ns: 1_767_225_600_000_000_000 }
    }

    /// xorshift64*: small, and its values will never change under us.
    pub fn number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.number() >> 11) % bound
    }

    fn small(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(u64::from(bound))).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
        of[index]
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes()[..chunk.len()]);
        }
        out
    }

    /// One of a few thousand accounts.
    pub fn account(&mut self) -> String {
        match self.below(3) {
            0 => format!("u{:04}@{}", self.below(2000), self.pick(&DOMAINS)),
            1 => format!("{}@{}", self.pick(&NAMES), self.pick(&DOMAINS)),
            _ => format!("{}{}@{}", self.pick(&NAMES), self.below(90), self.pick(&DOMAINS)),
        }
    }

    /// Wall time that moves on by microseconds.
    pub fn captured_wall_ns(&mut self) -> u64 {
        self.clock_ns += self.below(5_000_000);
        self.clock_ns
    }

    fn guid(&mut self) -> String {
        let seconds = self.clock_ns / 1_000_000_000;
        match self.below(2) {
            0 => MailboxGuid(self.bytes()).to_string(),
            _ => format!("{seconds}.M{}P{}.{}", self.below(1_000_000), self.below(4_000_000), self.pick(&HOSTS)),
        }
    }

    fn keywords(&mut self) -> Vec<String> {
        let count = self.below(6).saturating_sub(3);
        let mut keywords: Vec<String> = (0..count).map(|_| self.pick(&KEYWORDS).to_owned()).collect();
        keywords.sort();
        keywords.dedup();
        keywords
    }

    fn message(&mut self) -> Message {
        let size = 900 + self.below(200_000);
        let seconds = i64::try_from(self.clock_ns / 1_000_000_000).unwrap_or(0);
        Message {
            mailbox: MailboxGuid(self.bytes()),
            mailbox_name: self.pick(&MAILBOXES).to_owned(),
            uid_validity: 1_700_000_000 + self.small(60_000_000),
            uid: 1 + self.small(100_000),
            guid: self.guid(),
            blob: Some(BlobId(self.bytes())),
            size_physical_bytes: size,
            size_virtual_bytes: size + size / 40,
            received_s: seconds,
            received_tz_minutes: [0, 60, 120, -300][usize::try_from(self.below(4)).unwrap_or(0)],
            saved_s: seconds,
            flags: self.small(32),
            keywords: self.keywords(),
            modseq: 1 + self.below(1_000_000),
        }
    }

    /// One operation: mostly saves, flags and expunges, as on a mail store by day.
    pub fn op(&mut self) -> Op {
        let mailbox = MailboxGuid(self.bytes());
        let uid = 1 + self.small(100_000);
        match self.below(100) {
            0..40 => Op::MessageSaved { message: self.message(), snapshot: 0 },
            40..70 => Op::FlagsSet {
                mailbox,
                uid,
                guid: self.guid(),
                flags: self.small(32),
                keywords: self.keywords(),
                modseq: 1 + self.below(1_000_000),
            },
            70..82 => Op::MessageExpunged { mailbox, uid, guid: self.guid() },
            82..92 => Op::MessageCopied {
                message: self.message(),
                source: mailbox,
                source_uid: uid,
                moved: uid.is_multiple_of(2),
            },
            92..94 => Op::Subscribed { name: self.pick(&MAILBOXES).to_owned(), snapshot: 0 },
            94 => Op::Unsubscribed { name: self.pick(&MAILBOXES).to_owned() },
            95 => Op::MailboxDeleted { guid: mailbox, name: self.pick(&MAILBOXES).to_owned() },
            96 => Op::MailboxRenamed {
                guid: mailbox,
                old_name: self.pick(&MAILBOXES).to_owned(),
                new_name: format!("Archive/{}", self.pick(&MAILBOXES)),
            },
            97 => Op::AttributeSet {
                mailbox: Some(mailbox),
                private: true,
                key: self.pick(&ATTRIBUTES).to_owned(),
                value: Some(self.guid().into_bytes()),
                snapshot: 0,
            },
            kind => {
                let name = self.pick(&MAILBOXES).to_owned();
                let uid_validity = 1_700_000_000 + self.small(60_000_000);
                let highest_modseq = 1 + self.below(1_000_000);
                let mailbox =
                    Mailbox { guid: mailbox, name, uid_validity, next_uid: uid, highest_modseq, directory: false };
                if kind == 98 {
                    Op::MailboxCreated { mailbox, snapshot: 0 }
                } else {
                    Op::MailboxUpdated { mailbox, snapshot: 0 }
                }
            }
        }
    }

    /// Account, time and encoded operation.
    pub fn entry(&mut self) -> (String, u64, Vec<u8>) {
        (self.account(), self.captured_wall_ns(), self.op().encode())
    }

    /// An uncompressed frame body of `count` entries.
    pub fn body(&mut self, count: usize) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..count {
            let (account, captured_wall_ns, op) = self.entry();
            understudy_types::op::put_entry(&mut body, &account, captured_wall_ns, &op);
        }
        body
    }

    /// Samples for the dictionary: bodies of 1 to 8 operations, the sizes that need one.
    pub fn samples() -> Vec<Vec<u8>> {
        let mut traffic = Self::new(1);
        (0..12_000).map(|n| traffic.body(1 + n % 8)).collect()
    }
}
