//! The C ABI, as a C program sees it: compiled with `cc` against the generated header and the static library.
//!
//! Owns: the agent's side of `abi.c`. Needs a C compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use understudy_ring::{AckLevel, Consumer, ConsumerOptions, Event, Policy, RecordKind, Status};

/// Beside this test's own directory: `target/<profile>/`. Building a test does not build the static library, so it
/// is built here, with the profile of the test and from the same target directory.
fn static_library() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let profile = deps.parent().and_then(Path::parent).unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "--package", "understudy-ring", "--lib", "--target-dir"]);
    cargo.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the library does not build");
    profile.join("libunderstudy_ring.a")
}

#[test]
fn a_c_program_publishes_and_waits() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("abi");
    if Command::new("cc").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED a_c_program_publishes_and_waits: no C compiler; install the package gcc");
        return;
    }
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-I"])
        .arg(root.join("include"))
        .arg(root.join("tests/abi.c"))
        .arg(static_library())
        .args(["-lpthread", "-ldl", "-lm", "-lgcc_s", "-o"])
        .arg(&program)
        .status()
        .unwrap();
    assert!(compiled.success(), "the header or the library do not fit");
    let path = dir.path().join("ring");
    let mut consumer = Consumer::attach(&path, &ConsumerOptions::default(), 0).unwrap();
    consumer.bump_policy_generation();
    let mut child = Command::new(&program).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut kinds = Vec::new();
    loop {
        while let Some(event) = consumer.poll() {
            let Event::Record(record) = event else { panic!("{event:?}") };
            assert_eq!(record.account, b"ada@example.test");
            kinds.push(record.kind);
            match (record.kind, record.completion) {
                (RecordKind::AccountOpen, Some(at)) => {
                    let policy = Policy { level: AckLevel::Peer, peers: 2, ..Policy::default() };
                    assert!(consumer.complete_policy(at, &policy));
                }
                (RecordKind::Op, Some(at)) => {
                    assert_eq!((record.payload.as_slice(), record.captured_wall_ns), (&b"saved"[..], 3));
                    assert!(consumer.complete(at, Status::Replicated, b""));
                }
                _ => {}
            }
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        consumer.wait(1_000_000);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(kinds, [RecordKind::AccountOpen, RecordKind::Intent, RecordKind::Op]);
    assert_eq!(consumer.stats().intents_open, 0);
}
