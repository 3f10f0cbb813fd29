//! Precedence, suggestions, defaults, cross-checks, and that key table, types and documentation agree.

use super::keys::{Default, KEYS};
use super::*;
use std::collections::BTreeSet;

const HEAD: &str = "[node]\nid = 1\nname = \"a\"\n";

fn sources(text: &str, env: &[(&str, &str)], flags: &[&str]) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("understudy.toml");
    std::fs::write(&file, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    (dir, Sources { file: Some(file), env, flags: flags.iter().map(|flag| (*flag).to_owned()).collect() })
}

fn refused(text: &str) -> String {
    Config::from_toml(text).unwrap_err().to_string()
}

#[test]
fn the_later_source_wins_and_the_origin_says_which() {
    let text = format!("{HEAD}[ring]\nbytes = \"1 MiB\"\nslots = 1024\nmode = \"0600\"\n");
    let env = [
        ("UNDERSTUDY_RING__SLOTS", "2048"),
        ("UNDERSTUDY_RING__MODE", "0640"),
        ("UNDERSTUDY_CONFIG", "/x"),
        ("HOME", "/"),
    ];
    let (_dir, sources) = sources(&text, &env, &["ring.mode=0666"]);
    let loaded = load(&sources).unwrap();
    assert_eq!((loaded.config.ring.bytes, loaded.config.ring.slots, loaded.config.ring.mode), (1 << 20, 2048, 0o666));
    let origin = |key| loaded.values[&KeyPath::parse(key)].1.clone();
    assert!(matches!(origin("ring.bytes"), Origin::File { line: 5, .. }));
    assert_eq!(origin("ring.slots"), Origin::Env { name: "UNDERSTUDY_RING__SLOTS".into() });
    assert_eq!(origin("ring.mode"), Origin::Flag);
    assert_eq!(origin("ring.path"), Origin::Default);
    assert_eq!(loaded.config.ring.path, Path::new("/run/understudy/ring"));
}

#[test]
fn directories_move_what_lies_under_them() {
    let config = Config::from_toml(&format!("{HEAD}data_dir = \"/d/\"\n")).unwrap();
    assert_eq!(config.journal.dir, Path::new("/d/journal"));
    assert_eq!(config.store.spool_dir, Path::new("/d/spool"));
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_right_one() {
    let (_dir, sources) = sources(&format!("{HEAD}[ring]\nbyts = 1\n"), &[], &[]);
    let said = load(&sources).unwrap_err().to_string();
    assert!(said.contains("understudy.toml:5: `ring.byts`: unknown key; did you mean `ring.bytes`?"), "{said}");
    for (text, wanted) in [
        ("[rng]\nbytes = 1\n", "did you mean `ring`?"),
        ("[ring]\nreplay_socket = \"/x\"\n", "did you mean `store.replay_socket`?"),
        (
            "[[peers]]\nid = 2\nname = \"b\"\nadress = \"b:1\"\n",
            "`peers[0].adress`: unknown key; did you mean `peers[0].address`?",
        ),
        ("[classes.vip]\nacounts = []\n", "did you mean `classes.vip.accounts`?"),
        ("[transport.tls]\nqqqqqqqqqq = 1\n", "here can stand: ca, cert, key"),
        ("[[rules]]\nkinds = { includes = [] }\n", "did you mean `rules[0].kinds.include`?"),
    ] {
        let said = refused(&format!("{HEAD}{text}"));
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn wrong_environment_and_flags_are_refused_with_their_name() {
    let (_dir, sources) =
        sources(HEAD, &[("UNDERSTUDY_RING__BYTS", "1")], &["jurnal.dir=/x", "ring.bytes", "ring.slots=many"]);
    let said = load(&sources).unwrap_err().to_string();
    for wanted in [
        "environment UNDERSTUDY_RING__BYTS: `ring.byts`: unknown key; did you mean `ring.bytes`?",
        "flag --set: `jurnal.dir`: unknown key; did you mean `journal`?",
        "has no `=`",
        "expected a number from 16 to 1048576, found `\"many\"`",
    ] {
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
}

#[test]
fn lists_and_peers_can_come_from_the_environment() {
    let env = [
        ("UNDERSTUDY_STORE__MAIL_PATHS", "/a,/b"),
        ("UNDERSTUDY_PEERS__0__ID", "2"),
        ("UNDERSTUDY_PEERS__0__NAME", "b"),
        ("UNDERSTUDY_PEERS__0__ADDRESS", "10.0.0.2:7470"),
        ("UNDERSTUDY_JOURNAL__BYTES_MAX", "1GiB"),
    ];
    let (_dir, sources) = sources(HEAD, &env, &[]);
    let config = load(&sources).unwrap().config;
    assert_eq!(config.store.mail_paths, [Path::new("/a"), Path::new("/b")]);
    assert_eq!((config.peers[0].id, config.peers[0].address.as_str()), (2, "10.0.0.2:7470"));
    assert_eq!(config.journal.bytes_max, 1 << 30);
}

#[test]
fn wrong_values_say_what_was_expected() {
    for (text, wanted) in [
        ("[ring]\nbytes = \"16 Mib\"\n", "expected bytes from 4 KiB to 64 MiB"),
        ("[ring]\nbytes = 3000000\n", "is no power of two; take 4194304 or 2097152"),
        ("[journal]\nio_backend = \"iouring\"\n", "did you mean `io_uring`?"),
        ("[journal]\ndir = \"relative\"\n", "expected an absolute path"),
        ("[ring]\nmode = \"999\"\n", "octal"),
        ("ring = 3\n", "expected a table; write it as `[ring]`"),
        ("[peers]\nid = 2\n", "expected a list of tables; write it as `[[peers]]`"),
        ("[[peers]]\nid = 2\naddress = \"b:1\"\n", "`peers[0].name`: must be set"),
        ("[blobs]\nkind = \"s3\"\n", "`blobs.endpoint`: must be set"),
        ("[[peers]]\nid = 1\nname = \"b\"\naddress = \"b:1\"\n", "1 is this node"),
        ("x = [\n", "not TOML"),
        ("[coordinator]\nkind = \"etcd\"\n", "`coordinator.endpoints`: must be set"),
        (
            "[coordinator]\nkind = \"etcd\"\nendpoints = [\"http://a:1\"]\nuser = \"u\"\n",
            "`coordinator.password_file`: must be set where `coordinator.user` is",
        ),
        ("[failover]\nlease_ms = 1500\nrenew_ms = 501\n", "more than a third of `failover.lease_ms` = 1500"),
        ("[failover]\nrto_ms = 9000\n", "without a coordinator nothing fails over"),
    ] {
        let head = if text.starts_with("ring") { format!("{text}{HEAD}") } else { format!("{HEAD}{text}") };
        let said = refused(&head);
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
    assert!(refused("").contains("`node.id`: must be set"));
}

#[test]
fn placement_is_checked() {
    let peers = "[[peers]]\nid = 2\nname = \"b\"\naddress = \"b:1\"\n";
    for (text, wanted) in [
        (
            "[[placement.groups]]\nids = \"0-99\"\nactive = \"a\"\nreplicas = [\"a\"]\n",
            "`a` is the active node already",
        ),
        ("[[placement.groups]]\nids = \"0-99\"\nactive = \"aa\"\n", "there is no node `aa`"),
        ("[[placement.groups]]\nids = \"0-49\"\nactive = 1\n", "50 of 100 groups are not placed, the first is 50"),
        ("[[placement.groups]]\nids = \"0-99,3\"\nactive = 1\n", "group 3 is placed twice"),
        ("[[placement.groups]]\nids = \"0-100\"\nactive = 1\n", "there is no group 100"),
        ("[[placement.groups]]\nids = \"9-1\"\nactive = 1\n", "expected groups"),
        ("[placement.accounts]\n\"u@x\" = 100\n", "there is no group 100"),
    ] {
        let said = refused(&format!("{HEAD}{peers}{text}"));
        assert!(said.contains(wanted), "{wanted}\n{said}");
    }
    let text = format!(
        "{HEAD}{peers}[placement.accounts]\n\"u@x\" = 7\n[[placement.groups]]\nids = \"0-49\"\nactive = 1\nreplicas = [\"b\"]\n[[placement.groups]]\nids = \"50-99\"\nactive = \"b\"\nreplicas = [1]\n"
    );
    let placement = Placement::build(&Config::from_toml(&text).unwrap()).unwrap();
    assert_eq!(placement.group_of("u@x").0, 7);
    let group = placement.group(understudy_types::id::GroupId(60)).unwrap();
    assert_eq!((group.active.get(), group.replicas[0].get(), group.epoch.0), (2, 1, 1));
}

#[test]
fn the_hash_of_an_account_never_changes() {
    // Golden: a change here would send every account to another group.
    let config = Config::from_toml(HEAD).unwrap();
    let placement = Placement::build(&config).unwrap();
    assert_eq!(
        placement::hash("u0001@example.test"),
        u64::from_le_bytes(blake3::hash(b"u0001@example.test").as_bytes()[..8].try_into().unwrap())
    );
    let groups: Vec<u32> = ["u0001@example.test", "u0002@example.test", "", "ü@example.test"]
        .iter()
        .map(|name| placement.group_of(name).0)
        .collect();
    assert_eq!(groups, [24, 21, 63, 88]);
}

#[test]
fn groups_spread_evenly_and_so_do_the_replicas_of_one_node() {
    let text = format!(
        "{HEAD}[[peers]]\nid = 9\nname = \"c\"\naddress = \"c:1\"\n[[peers]]\nid = 5\nname = \"b\"\naddress = \"b:1\"\n[placement]\ngroup_count = 96\n"
    );
    let placement = Placement::build(&Config::from_toml(&text).unwrap()).unwrap();
    let count = |active: u16, replica: u16| {
        placement
            .groups()
            .iter()
            .filter(|group| group.active.get() == active && group.replicas.iter().all(|node| node.get() == replica))
            .count()
    };
    for (active, replica) in [(1, 5), (1, 9), (5, 1), (5, 9), (9, 1), (9, 5)] {
        assert_eq!(count(active, replica), 16, "{active} {replica}");
    }
}

#[test]
fn a_placement_file_replaces_the_section() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("placement.toml");
    std::fs::write(&path, "[[groups]]\nids = \"0-99\"\nactive = \"a\"\n[accounts]\n\"u@x\" = 3\n").unwrap();
    let (_dir, sources) = sources(&format!("{HEAD}[placement]\nfile = \"{}\"\n", path.display()), &[], &[]);
    let config = load(&sources).unwrap().config;
    assert_eq!(config.placement.accounts["u@x"], 3);
    std::fs::write(&path, "[[groups]]\nids = \"0-99\"\nactiv = \"a\"\n").unwrap();
    let said = load(&sources).unwrap_err().to_string();
    assert!(said.contains("placement.toml:") && said.contains("activ"), "{said}");
}

/// Every key set to its sample.
fn full_text() -> String {
    let mut text = String::new();
    for key in KEYS {
        let path =
            key.path.replace("[]", "[0]").replace("classes.*", "classes.vip").replace("accounts.*", "accounts.\"u@x\"");
        text.push_str(&format!("{path}={}\n", key.sample.trim_matches('"')));
    }
    text
}

fn names(prefix: &str, value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, inner) in table {
                let name = match prefix {
                    "classes" | "placement.accounts" => "*",
                    _ => name,
                };
                names(&if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }, inner, found);
            }
        }
        toml::Value::Array(list) if list.first().is_some_and(toml::Value::is_table) => {
            names(&format!("{prefix}[]"), &list[0], found)
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

#[test]
fn key_table_and_types_are_the_same_set() {
    let flags: Vec<String> = full_text().lines().map(str::to_owned).collect();
    let mut problems = Vec::new();
    let values = source::merge(source::from_flags(&flags, &mut problems), &mut problems);
    assert_eq!(problems, []);
    let config: Config = toml::Value::Table(source::to_table(&values)).try_into().unwrap();
    let mut found = BTreeSet::new();
    names("", &toml::Value::try_from(&config).unwrap(), &mut found);
    assert_eq!(found, KEYS.iter().map(|key| key.path.to_owned()).collect::<BTreeSet<_>>());
}

#[test]
fn every_default_is_valid_for_its_own_type() {
    for key in KEYS {
        if let Default::Is(text) = key.default {
            let table: toml::Table = format!("value = {text}").parse().unwrap();
            key.kind.normalise(&table["value"]).unwrap_or_else(|why| panic!("{}: {why}", key.path));
        }
    }
}

#[test]
fn damaged_files_end_in_problems_and_never_in_a_panic() {
    let text = format!(
        "{HEAD}[ring]\nbytes = \"1 MiB\"\n[[peers]]\nid = 2\nname = \"b\"\naddress = \"b:1\"\n[placement.accounts]\n\"u@x\" = 7\n"
    );
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = Config::from_toml(&text);
            }
        }
    }
}

#[test]
fn the_manual_lists_every_key_and_no_other() {
    let mut rows = String::new();
    for key in KEYS {
        let default = match key.default {
            Default::Required => "must be set".to_owned(),
            Default::Unset => String::new(),
            Default::Is(text) => format!("`{text}`"),
            Default::Under(directory, name) => format!("`{name}` in `{directory}`"),
        };
        rows.push_str(&format!(
            "| `{}` | {} | {default} | `{}` | {} |\n",
            key.path,
            key.kind.describe(),
            key.sample,
            key.doc
        ));
    }
    docs::assert_table("docs/configuration.md", &rows);
}

#[test]
fn a_required_key_that_is_missing_says_where_it_belongs() {
    let (_dir, sources) = sources(&format!("{HEAD}[[peers]]\nid = 2\nname = \"b\"\n"), &[], &[]);
    let said = load(&sources).unwrap_err().to_string();
    assert!(said.contains("understudy.toml:4: `peers[0].address`: must be set; for example `address = \"192.0.2.2:7470\"` in `[[peers]]`"), "{said}");
    assert!(refused("").contains("`id = 1` in `[node]`"));
}

#[test]
fn canary_watchdog_and_hook_are_checked() {
    let text = |failover: &str| format!("{HEAD}[failover]\n{failover}");
    let said = |failover: &str| {
        let config = Config::from_toml(&text(failover)).unwrap();
        check::check_host(&config).into_iter().filter(|p| p.key.starts_with("failover")).collect::<Vec<_>>()
    };
    assert!(refused(&text("canary_account = \"c\"")).contains("failover.canary_password_file"));
    let short = "watchdog = \"/dev/watchdog\"\nlease_ms = 900\nrenew_ms = 300";
    assert!(refused(&text(short)).contains("shorter than one"));
    assert!(said("watchdog = \"/dev/watchdog\"").is_empty());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "x").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let found = said(&format!("canary_account = \"c\"\ncanary_password_file = \"{}\"", file.display()));
    // No rules: all accounts are replicated, this one too.
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(texts.len() == 2 && texts[0].contains("is replicated") && texts[1].contains("everybody"), "{texts:?}");
    let found = said(&format!("fence_hook = \"{}\"", file.display()));
    assert!(found.len() == 1 && found[0].to_string().contains("no program"), "{found:?}");
}
