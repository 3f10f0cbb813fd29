//! The key table: every key of the configuration with its type, default and meaning.
//!
//! Owns: what exists. The loader, the suggestions, the environment's names, the defaults and
//! `docs/configuration.md` all come from here, so that they cannot disagree. Refuses: keys that nothing reads.

use toml::Value;

/// The type of a value, and its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    /// Absolute path of a file or directory.
    Path,
    PathList,
    TextList,
    /// Inclusive range.
    Integer(i64, i64),
    /// Number of bytes, or a text such as `"16 MiB"`; inclusive range.
    Bytes(u64, u64),
    Bool,
    Choice(&'static [&'static str]),
    /// `host:port`; a text that is empty switches it off.
    Address,
    /// Permission bits as octal text.
    Mode,
    /// A number, or a text that is hashed to one.
    Cluster,
    /// A node's id or its name.
    Node,
    NodeList,
    /// A list of group numbers such as `"0-49,60"`.
    Groups,
    /// `none`, `local`, `peer` or `peer:K`.
    Level,
}

/// What a key has when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// Must be set.
    Required,
    /// Stays unset.
    Unset,
    /// A value in TOML's syntax.
    Is(&'static str),
    /// A path under the directory that another key names.
    Under(&'static str, &'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `ring.bytes`, `peers[].id`, `classes.*.file`.
    pub path: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// One sentence or two for `docs/configuration.md`.
    pub doc: &'static str,
    /// A value that is valid, in TOML's syntax: for the manual and for the test that the table and the types agree.
    pub sample: &'static str,
    /// Not to be printed.
    pub secret: bool,
}

const fn key(path: &'static str, kind: Kind, default: Default, sample: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, doc, sample, secret: false }
}

const fn secret(path: &'static str, kind: Kind, default: Default, sample: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, doc, sample, secret: true }
}

use self::Default::{Is, Required, Under, Unset};
use self::Kind::{
    Address, Bool, Bytes, Choice, Cluster, Groups, Integer, Level, Mode, Node, NodeList, Path, PathList, Text, TextList,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const BACKENDS: &[&str] = &["auto", "io_uring", "plain"];

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("node.id", Integer(1, 4095), Required, "1", "Number of this node, unique in the cluster."),
    key("node.name", Text, Required, "\"mail1\"", "Name of this node, for people and for its certificate."),
    key(
        "node.cluster",
        Cluster,
        Is("\"understudy\""),
        "\"production\"",
        "Number, or a text that is hashed to one. Agents of different clusters refuse each other.",
    ),
    key(
        "node.data_dir",
        Path,
        Is("\"/var/lib/understudy\""),
        "\"/var/lib/understudy\"",
        "Directory for what must survive a reboot.",
    ),
    key(
        "node.runtime_dir",
        Path,
        Is("\"/run/understudy\""),
        "\"/run/understudy\"",
        "Directory for the ring and the admin socket.",
    ),
    key("store.kind", Choice(&["dovecot"]), Is("\"dovecot\""), "\"dovecot\"", "Which store runs beside the agent."),
    key(
        "store.replay_socket",
        Path,
        Is("\"/run/dovecot/understudy-replay\""),
        "\"/run/dovecot/understudy-replay\"",
        "Socket of the store's replay service.",
    ),
    key(
        "store.master_pid_file",
        Path,
        Is("\"/run/dovecot/master.pid\""),
        "\"/run/dovecot/master.pid\"",
        "File with the process id of the store's first process; the probe follows its whole tree.",
    ),
    key(
        "store.mail_paths",
        PathList,
        Is("[]"),
        "[\"/var/vmail\"]",
        "Directories that hold mail: their devices are watched, their free space is reported. Empty: only the agent's own directories.",
    ),
    key(
        "store.spool_dir",
        Path,
        Under("node.data_dir", "spool"),
        "\"/var/lib/understudy/spool\"",
        "Where the store's processes leave message bodies for the agent. Must be writable for them.",
    ),
    key(
        "store.apply_workers",
        Integer(1, 64),
        Is("4"),
        "4",
        "Connections to the replay service; each applies other accounts.",
    ),
    key(
        "ring.path",
        Path,
        Under("node.runtime_dir", "ring"),
        "\"/run/understudy/ring\"",
        "File that the store's processes and the agent map.",
    ),
    key(
        "ring.bytes",
        Bytes(4 * KIB, 64 * MIB),
        Is("16777216"),
        "\"16 MiB\"",
        "Size of the data area; a power of two. A store process maps it whole: stay below its `vsz_limit`.",
    ),
    key(
        "ring.slots",
        Integer(16, 1 << 20),
        Is("65536"),
        "65536",
        "Records that the ring holds at one time; a power of two.",
    ),
    key("ring.mode", Mode, Is("\"0660\""), "\"0660\"", "Permission bits of the ring file."),
    key(
        "ring.group",
        Text,
        Unset,
        "\"vmail\"",
        "Group that owns the ring file and the spool: one that every mail process is in.",
    ),
    key(
        "journal.dir",
        Path,
        Under("node.data_dir", "journal"),
        "\"/var/lib/understudy/journal\"",
        "Directory of the journal's segments.",
    ),
    key(
        "journal.bytes_max",
        Bytes(4 * MIB, 64 * TIB),
        Is("4294967296"),
        "\"4 GiB\"",
        "Bytes that the journal may take. Past it the oldest segments go, and a peer that still needed them is marked `resync needed`.",
    ),
    key(
        "journal.segment_bytes",
        Bytes(MIB, 1 << 30),
        Is("67108864"),
        "\"64 MiB\"",
        "Bytes of one preallocated segment; a multiple of 4096.",
    ),
    key(
        "journal.io_backend",
        Choice(BACKENDS),
        Is("\"auto\""),
        "\"auto\"",
        "How the journal writes. `auto` takes io_uring where the kernel allows it.",
    ),
    key(
        "journal.free_bytes_min",
        Bytes(0, 64 * TIB),
        Is("1073741824"),
        "\"1 GiB\"",
        "Free space that the journal leaves on its file system. Past it old segments go as if `bytes_max` were reached.",
    ),
    key(
        "transport.listen",
        Address,
        Is("\"0.0.0.0:7470\""),
        "\"0.0.0.0:7470\"",
        "Address on which peers bring frames.",
    ),
    key(
        "transport.beat_listen",
        Address,
        Unset,
        "\"0.0.0.0:7471\"",
        "Address on which peers bring beats; unset: the port after that of `transport.listen`.",
    ),
    key(
        "transport.io_backend",
        Choice(BACKENDS),
        Is("\"auto\""),
        "\"auto\"",
        "How frames are sent and received. `auto` takes io_uring where the kernel allows it.",
    ),
    key(
        "transport.bytes_per_second_max",
        Bytes(0, TIB),
        Is("0"),
        "\"50 MiB\"",
        "Limit of what is sent to each peer; 0 = no limit.",
    ),
    key(
        "transport.tls.ca",
        Path,
        Is("\"/etc/understudy/tls/ca.pem\""),
        "\"/etc/understudy/tls/ca.pem\"",
        "Certificate of the cluster's authority (`understudy cert`).",
    ),
    key(
        "transport.tls.cert",
        Path,
        Is("\"/etc/understudy/tls/node.pem\""),
        "\"/etc/understudy/tls/node.pem\"",
        "Certificate of this node.",
    ),
    key(
        "transport.tls.key",
        Path,
        Is("\"/etc/understudy/tls/node.key\""),
        "\"/etc/understudy/tls/node.key\"",
        "Private key of this node.",
    ),
    key("peers[].id", Integer(1, 4095), Required, "2", "Number of the peer."),
    key("peers[].name", Text, Required, "\"mail2\"", "Name of the peer, as its certificate says it."),
    key(
        "peers[].address",
        Address,
        Required,
        "\"192.0.2.2:7470\"",
        "The peer's `transport.listen`, as reachable from here.",
    ),
    key(
        "peers[].beat_address",
        Address,
        Unset,
        "\"192.0.2.2:7471\"",
        "The peer's `transport.beat_listen`; unset: the port after that of `address`.",
    ),
    key(
        "peers[].bytes_per_second_max",
        Bytes(0, TIB),
        Unset,
        "\"10 MiB\"",
        "Limit for this peer, instead of `transport.bytes_per_second_max`.",
    ),
    key(
        "blobs.kind",
        Choice(&["directory", "s3"]),
        Is("\"directory\""),
        "\"s3\"",
        "Where message bodies are kept centrally: a directory that every node sees (NFS, CephFS, one host), or S3.",
    ),
    key("blobs.path", Path, Under("node.data_dir", "blobs"), "\"/srv/blobs\"", "The directory, for `directory`."),
    key("blobs.endpoint", Text, Unset, "\"https://s3.example.test\"", "URL of the S3 service."),
    key("blobs.bucket", Text, Unset, "\"mail\"", "Bucket, for `s3`."),
    key("blobs.region", Text, Is("\"us-east-1\""), "\"garage\"", "Region, for `s3`."),
    key("blobs.prefix", Text, Is("\"\""), "\"understudy\"", "Put before every object's name."),
    key("blobs.access_key", Text, Unset, "\"AKEXAMPLE\"", "Access key, for `s3`."),
    secret(
        "blobs.secret_key",
        Text,
        Unset,
        "\"secret\"",
        "Secret key, for `s3`. Better in the environment or in `blobs.secret_key_file`.",
    ),
    key(
        "blobs.access_key_file",
        Path,
        Unset,
        "\"/etc/understudy/s3.access\"",
        "File whose first line is the access key.",
    ),
    key(
        "blobs.secret_key_file",
        Path,
        Unset,
        "\"/etc/understudy/s3.secret\"",
        "File whose first line is the secret key.",
    ),
    key("blobs.allow_http", Bool, Is("false"), "true", "Allow an endpoint without TLS."),
    key(
        "placement.group_count",
        Integer(1, 65536),
        Is("100"),
        "100",
        "Number of groups. An account's group is the first 8 bytes (little-endian) of the BLAKE3 hash of its name, modulo this. The same on every node, for ever.",
    ),
    key(
        "placement.replica_count",
        Integer(0, 15),
        Is("1"),
        "1",
        "Replicas of a group that no `placement.groups` entry names: groups go round all nodes by id, replicas are the nodes that follow.",
    ),
    key(
        "placement.file",
        Path,
        Unset,
        "\"/etc/understudy/placement.toml\"",
        "File with `groups` and `accounts` as in this section; replaces them. Read again on SIGHUP.",
    ),
    key("placement.groups[].ids", Groups, Required, "\"0-49,60\"", "Groups that this entry places."),
    key("placement.groups[].active", Node, Required, "\"mail1\"", "Node (id or name) on which users work."),
    key(
        "placement.groups[].replicas",
        NodeList,
        Is("[]"),
        "[\"mail2\"]",
        "Nodes that hold replicas, first choice first.",
    ),
    key(
        "placement.accounts.*",
        Integer(0, 65535),
        Unset,
        "7",
        "Group of one account, instead of the hash: `\"u@example.test\" = 7`.",
    ),
    key("rules[].name", Text, Unset, "\"staff\"", "Name of the rule, for people; unset: its number."),
    key(
        "rules[].accounts",
        TextList,
        Is("[]"),
        "[\"*@example.test\"]",
        "Accounts by glob (`*`, `?`, `[a-z]`, `{a,b}`). A rule that names no accounts, domains, classes and file is for all.",
    ),
    key(
        "rules[].domains",
        TextList,
        Is("[]"),
        "[\"example.test\"]",
        "Accounts by domain, the part after the last `@`; upper and lower case are the same.",
    ),
    key("rules[].classes", TextList, Is("[]"), "[\"vip\"]", "Accounts by class, see `classes`."),
    key(
        "rules[].file",
        Path,
        Unset,
        "\"/etc/understudy/accounts\"",
        "File with one account on each line; `#` begins a comment.",
    ),
    key(
        "rules[].exclude",
        TextList,
        Is("[]"),
        "[\"test-*@example.test\"]",
        "Accounts by glob that the rule is not for, although one of the above says so.",
    ),
    key("rules[].replicate", Bool, Is("true"), "true", "`false`: these accounts are not replicated."),
    key(
        "rules[].kinds.include",
        TextList,
        Is("[\"mailboxes\", \"messages\", \"flags\", \"subscriptions\", \"metadata\"]"),
        "[\"mailboxes\", \"messages\", \"flags\"]",
        "Kinds of operation that are replicated, as classes (the default names them all) or as single kinds of `docs/formats.md` such as `message-saved`.",
    ),
    key("rules[].kinds.exclude", TextList, Is("[]"), "[\"attribute-set\"]", "Kinds that are not, although included."),
    key(
        "rules[].level",
        Level,
        Is("\"local\""),
        "\"peer:2\"",
        "What a client waits for before its OK: `none`; `local`: fsync here; `peer` or `peer:K`: fsync on one or K peers.",
    ),
    key(
        "rules[].on_timeout",
        Choice(&["go-on", "refuse"]),
        Is("\"go-on\""),
        "\"refuse\"",
        "When that does not come in time: `go-on` (it is shipped later) or `refuse` (the client is told that it may not have reached the peer).",
    ),
    key(
        "rules[].on_full",
        Choice(&["wait", "refuse", "go-on"]),
        Is("\"go-on\""),
        "\"wait\"",
        "When the ring is full or no agent runs: `wait` at most `wait_timeout_ms` and then refuse, `refuse` at once, or `go-on` and mark a gap, which leads to a resync of the account.",
    ),
    key(
        "rules[].wait_timeout_ms",
        Integer(1, 600_000),
        Is("2000"),
        "2000",
        "Longest time that a client is kept waiting.",
    ),
    key("classes.*.accounts", TextList, Is("[]"), "[\"ceo@example.test\"]", "Accounts of the class, by glob."),
    key("classes.*.file", Path, Unset, "\"/etc/understudy/vip\"", "File with one account of the class on each line."),
    key(
        "agent.log_level",
        Text,
        Is("\"info\""),
        "\"debug\"",
        "`error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,understudy_agent::journal=debug`.",
    ),
    key(
        "agent.log_format",
        Choice(&["text", "json"]),
        Is("\"text\""),
        "\"json\"",
        "Form of log lines on standard error. Under systemd the level is passed on to the journal.",
    ),
    key(
        "agent.metrics_listen",
        Address,
        Is("\"127.0.0.1:7472\""),
        "\"127.0.0.1:7472\"",
        "Address of `/metrics` and `/healthz`; empty: none.",
    ),
    key(
        "agent.admin_socket",
        Path,
        Under("node.runtime_dir", "admin.sock"),
        "\"/run/understudy/admin.sock\"",
        "Socket that the command line talks to.",
    ),
    key("agent.beat_interval_ms", Integer(100, 60_000), Is("1000"), "1000", "Time between two beats to the peers."),
    key(
        "agent.probe",
        Choice(&["auto", "off"]),
        Is("\"auto\""),
        "\"auto\"",
        "`auto`: kernel programs where permitted, else /proc and PSI. `off`: only /proc and PSI.",
    ),
    key(
        "tuning.batch_linger_us",
        Integer(0, 1_000_000),
        Is("500"),
        "500",
        "Longest time that an operation waits for company before its batch is sealed.",
    ),
    key("tuning.batch_ops_max", Integer(1, 4096), Is("4096"), "1024", "Operations in one batch."),
    key(
        "tuning.batch_bytes_max",
        Bytes(4 * KIB, MIB),
        Is("1048576"),
        "\"256 KiB\"",
        "Uncompressed bytes of operations in one batch.",
    ),
    key("tuning.zstd_level", Integer(-7, 19), Is("1"), "1", "Compression level of frames at low load."),
];

impl Kind {
    /// Checks a value and brings it into the one form that the types know.
    ///
    /// # Errors
    ///
    /// What was expected, for the administrator.
    pub fn normalise(self, value: &Value) -> Result<Value, String> {
        let wrong = || Err(format!("expected {}, found {}", self.describe(), show(value)));
        match (self, value) {
            (Self::Text, Value::String(text)) if text.chars().any(char::is_control) => wrong(),
            (Self::Text, Value::String(_)) | (Self::Bool, Value::Boolean(_)) => Ok(value.clone()),
            (Self::Path, Value::String(text)) if text.starts_with('/') => Ok(value.clone()),
            (Self::PathList, Value::Array(list)) if list.iter().all(|item| Self::Path.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::TextList, Value::Array(list)) if list.iter().all(|item| Self::Text.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::Integer(min, max), Value::Integer(number)) if (min..=max).contains(number) => Ok(value.clone()),
            (Self::Bytes(min, max), _) => match bytes(value) {
                Some(number) if (min..=max).contains(&number) => {
                    i64::try_from(number).map(Value::Integer).or_else(|_| wrong())
                }
                _ => wrong(),
            },
            (Self::Choice(choices), Value::String(text)) if choices.contains(&text.as_str()) => Ok(value.clone()),
            (Self::Choice(choices), Value::String(text)) => match nearest(text, choices.iter().copied()) {
                Some(near) => {
                    Err(format!("expected {}, found {}; did you mean `{near}`?", self.describe(), show(value)))
                }
                None => wrong(),
            },
            (Self::Address, Value::String(text)) if text.is_empty() || is_address(text) => Ok(value.clone()),
            (Self::Mode, Value::String(text)) => match i64::from_str_radix(text.trim_start_matches("0o"), 8) {
                Ok(bits) if (0..=0o777).contains(&bits) => Ok(Value::Integer(bits)),
                _ => wrong(),
            },
            (Self::Cluster, Value::Integer(number)) if *number >= 0 => Ok(value.clone()),
            (Self::Cluster, Value::String(text)) if !text.is_empty() => Ok(value.clone()),
            (Self::Node, Value::Integer(number)) if (1..=4095).contains(number) => Ok(value.clone()),
            (Self::Node, Value::String(text)) if !text.is_empty() => Ok(value.clone()),
            (Self::NodeList, Value::Array(list)) if list.iter().all(|item| Self::Node.normalise(item).is_ok()) => {
                Ok(value.clone())
            }
            (Self::Groups, Value::Integer(number)) if *number >= 0 => Ok(Value::String(number.to_string())),
            (Self::Groups, Value::String(text)) if super::placement::parse_groups(text).is_ok() => Ok(value.clone()),
            (Self::Level, Value::String(text)) if crate::rules::Level::parse(text).is_some() => Ok(value.clone()),
            _ => wrong(),
        }
    }

    /// Reads the text of an environment variable or flag: lists are separated by commas, or are in TOML's syntax.
    ///
    /// # Errors
    ///
    /// As [`Kind::normalise`].
    pub fn parse(self, text: &str) -> Result<Value, String> {
        let as_toml =
            || format!("value = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
        let value = match self {
            Self::Integer(..) | Self::Bool => as_toml(),
            Self::Bytes(..) | Self::Cluster | Self::Node | Self::Groups => {
                text.parse().ok().map(Value::Integer).or_else(|| Some(Value::String(text.to_owned())))
            }
            Self::PathList | Self::TextList | Self::NodeList => {
                as_toml().filter(Value::is_array).or_else(|| Some(Value::Array(split_list(self, text))))
            }
            _ => Some(Value::String(text.to_owned())),
        };
        self.normalise(&value.unwrap_or_else(|| Value::String(text.to_owned())))
    }

    /// The type in words, for errors and the manual.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "an absolute path".into(),
            Self::PathList => "a list of absolute paths".into(),
            Self::TextList => "a list of texts".into(),
            Self::Integer(min, max) => format!("a number from {min} to {max}"),
            Self::Bytes(min, max) => format!("bytes from {} to {}", show_bytes(min), show_bytes(max)),
            Self::Bool => "`true` or `false`".into(),
            Self::Choice(choices) => {
                let quoted: Vec<_> = choices.iter().map(|choice| format!("`{choice}`")).collect();
                if let [one] = quoted.as_slice() { one.clone() } else { format!("one of {}", quoted.join(", ")) }
            }
            Self::Address => "`host:port`".into(),
            Self::Mode => "octal permission bits as text".into(),
            Self::Cluster => "a number or a text".into(),
            Self::Node => "a node's id or name".into(),
            Self::NodeList => "a list of nodes' ids or names".into(),
            Self::Groups => "groups such as `\"0-49,60\"`".into(),
            Self::Level => "`none`, `local`, `peer` or `peer:K` (K from 1 to 15)".into(),
        }
    }
}

fn split_list(kind: Kind, text: &str) -> Vec<Value> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| match (kind, item.parse()) {
            (Kind::NodeList, Ok(number)) => Value::Integer(number),
            _ => Value::String(item.to_owned()),
        })
        .collect()
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// A number of bytes, or a text such as `"16 MiB"`, `"16MiB"`, `"1 GB"`.
fn bytes(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Integer(number) => return u64::try_from(*number).ok(),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => 1 << 30,
        "TiB" => TIB,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// Bytes in the largest binary unit that divides them.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (1 << 30, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    bytes.to_string()
}

/// A value in a few words of an error.
fn show(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a table".to_owned(),
        _ => format!("`{value}`"),
    };
    if text.chars().count() > 80 { format!("{}…`", text.chars().take(78).collect::<String>()) } else { text }
}

/// The candidate that is most like `word`, if any is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&word, candidate), candidate))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
