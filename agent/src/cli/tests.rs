//! The grammar, and each command from its arguments to its exit code.

use super::*;
use crate::control::model::{AccountStatus, Lag, PeerStatus, ReplicaState, ReplicaStatus, Role, Status};

fn exit(args: &[&str]) -> Exit {
    main(std::iter::once("understudy").chain(args.iter().copied()).map(OsString::from))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("understudy.toml");
    std::fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    (dir, path)
}

const GOOD: &str = "[node]\nid = 1\nname = \"a\"\n";

#[test]
fn the_grammar_is_sound_and_lists_every_command() {
    command().debug_assert();
    let help = command().render_help().to_string();
    for name in [
        "agent",
        "status",
        "top",
        "verify",
        "resync",
        "hold",
        "pause",
        "resume",
        "quarantine",
        "rules",
        "reload",
        "cert",
        "config",
        "doctor",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{name}\n{help}");
    }
    assert!(help.contains("Exit codes:"));
}

#[test]
fn every_failure_has_its_exit_code() {
    assert_eq!(exit(&["--version"]), Exit::Fine);
    assert_eq!(exit(&["--nonsense"]), Exit::Usage);
    assert_eq!(exit(&["verify"]), Exit::Usage);
    assert_eq!(exit(&["hold"]), Exit::Usage);
    assert_eq!(exit(&["hold", "release"]), Exit::Usage);
    assert_eq!(exit(&["hold", "undo", "--admin-socket", "/nonexistent/a", "u@x", "--since", "never"]), Exit::Usage);
    assert_eq!(exit(&["pause"]), Exit::Usage);
    assert_eq!(exit(&["pause", "--what", "replication", "--reason", "r"]), Exit::Usage, "of what?");
    let two = ["pause", "--what", "replication", "--reason", "r", "--group", "1", "--cluster"];
    assert_eq!(exit(&two), Exit::Usage, "of one thing at a time");
    assert_eq!(exit(&["pause", "--what", "mail", "--reason", "r", "--group", "1"]), Exit::Usage);
    let away = ["--admin-socket", "/nonexistent/admin.sock"];
    let pause = ["pause", "--what", "replication", "--reason", "r", "--group", "1", "--for", "2h"];
    assert_eq!(exit(&[pause.as_slice(), &away].concat()), Exit::Unreachable);
    assert_eq!(exit(&[["pause", "list"].as_slice(), &away].concat()), Exit::Unreachable);
    assert_eq!(exit(&[["hold", "list"].as_slice(), &away].concat()), Exit::Unreachable);
    assert_eq!(exit(&["status", "--admin-socket", "/nonexistent/admin.sock"]), Exit::Unreachable);
    assert_eq!(exit(&["status", "--config", "/nonexistent/understudy.toml"]), Exit::Usage);
    let (_dir, path) = file(GOOD);
    assert_eq!(exit(&["config", "check", "--no-host", &path]), Exit::Fine);
    assert_eq!(exit(&["config", "show", "--origin", "--config", &path]), Exit::Fine);
    assert_eq!(exit(&["rules", "resolve", "--dry-run", "--json", "--config", &path, "u@x"]), Exit::Fine);
    assert_eq!(exit(&["config", "show", "--config", &path, "--set", "ring.byts=1"]), Exit::Usage);
    let (_dir, path) = file("[node]\n");
    assert_eq!(exit(&["config", "check", &path]), Exit::Usage);
    assert_eq!(exit(&["agent", "--config", &path]), Exit::Usage);
}

#[test]
fn the_manual_page_knows_every_command_and_exit_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/man/understudy.8");
    let page = std::fs::read_to_string(path).unwrap().replace("\\-", "-");
    for sub in command().get_subcommands() {
        let name = sub.get_name();
        assert!(page.contains(&format!(".B {name}")), "{name}");
        for flag in sub.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{flag}")), "{name} --{flag}");
        }
    }
    for flag in command().get_arguments().filter_map(clap::Arg::get_long) {
        assert!(page.contains(&format!("--{flag}")), "--{flag}");
    }
    for code in 0..=4 {
        assert!(page.contains(&format!(".TP\n.B {code}\n")), "{code}");
    }
}

#[test]
fn the_example_configuration_can_be_used() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/understudy.toml.example");
    let loaded = load(&Sources { file: Some(path.into()), ..Sources::default() }).unwrap();
    assert_eq!(loaded.config.peers.len(), 2);
    // What is commented out is right as well: a `#` before a key, without a blank, is an example to take.
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.contains("placement.toml"))
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty()).unwrap_or(line));
    let (_dir, whole) = file(&lines.collect::<Vec<_>>().join("\n"));
    load(&Sources { file: Some(whole.into()), ..Sources::default() }).unwrap();
}

#[test]
fn status_shows_what_is_wrong_and_leaves_out_what_is_well() {
    let replica =
        |state, operations| ReplicaStatus { node: "b".into(), lag: Lag { operations, bytes: 0, seconds: 1.5 }, state };
    let account = |name: &str, replica| AccountStatus {
        name: name.into(),
        role: Role::Active,
        replicas: vec![replica],
        ..AccountStatus::default()
    };
    let mut status = Status { reasons: vec!["b is away".into()], ..Status::default() };
    status.peers.push(PeerStatus { name: "b".into(), last_error: Some("refused".into()), ..PeerStatus::default() });
    status.accounts.push(account("equal@x", replica(ReplicaState::Equal, 0)));
    status.accounts.push(account("behind@x", replica(ReplicaState::Behind, 7)));
    let text = status::render(&status, &status::Args { accounts: false, groups: false });
    for wanted in ["NOT HEALTHY\n  - b is away", "not connected: refused", "b behind by 7 (1.5 s)", "1 of 2 accounts"] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("equal@x"));
    assert!(status::render(&status, &status::Args { accounts: true, groups: true }).contains("equal@x"));
}

#[test]
fn tables_are_aligned_by_characters() {
    let text = output::table(&["A", "B"], &[vec!["ü".into(), "1".into()], vec!["long".into(), String::new()]]);
    assert_eq!(text, "A     B\nü     1\nlong\n");
    assert_eq!(output::bytes(1536), "1.5 KiB");
    assert_eq!(output::seconds(0.0012), "2 ms");
}
