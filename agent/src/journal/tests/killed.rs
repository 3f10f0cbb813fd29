//! The agent is killed at any moment, many times: what it had acknowledged is there.
//!
//! The child is this test binary once more, with a variable that makes it append until it is killed. It prints an
//! answer only after it was given, so what the parent reads was acknowledged.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const VARIABLE: &str = "UNDERSTUDY_JOURNAL_KILLED";
const GROUPS: u32 = 4;
/// Kills per backend.
const KILLS: u64 = 40;

/// Appends frames of several groups, keeps about the last 300 sequences, prints `group last hash` for each answer.
fn child(directory: &Path, backend: IoBackend) {
    let (journal, recovered) = open(&config(directory, backend));
    assert_eq!(recovered.damage, []);
    let streams = (0..GROUPS).map(|group| {
        let tail = recovered.groups.get(&GroupId(group)).map(|state| state.tail).unwrap_or_default();
        Stream { tail, ..Stream::new(group) }
    });
    let mut streams: Vec<Stream> = streams.collect();
    let mut hashes: HashMap<u64, [u8; 32]> = HashMap::new();
    let mut out = std::io::stdout();
    for token in 0..u64::MAX {
        let stream = &mut streams[usize::try_from(token % u64::from(GROUPS)).unwrap()];
        let frame = stream.frame(1 + token % 3, 50 + usize::try_from(token * 7919 % 60_000).unwrap());
        hashes.insert(token, frame.hash());
        journal.append(frame, Token(token)).unwrap();
        // Up to 8 frames wait at a time.
        while hashes.len() > 8 {
            match event(&journal) {
                JournalEvent::Durable { group, last, token, already: false, .. } => {
                    let line = format!("{group} {last} {}\n", hex::encode(hashes.remove(&token.0).unwrap()));
                    out.write_all(line.as_bytes()).unwrap();
                }
                JournalEvent::Retired { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        if token % 50 == 49 {
            let done = |stream: &Stream| Sequence(stream.tail.sequence.0.saturating_sub(300));
            let need = |stream: &Stream| Need { group: stream.group, peer: node(2), done: done(stream) };
            journal.retain(streams.iter().map(need).collect(), Token(0)).unwrap();
        }
    }
}

fn parse(line: &str) -> Option<(GroupId, Sequence, [u8; 32])> {
    let mut words = line.split(' ');
    let group = GroupId(words.next()?.parse().ok()?);
    let last = Sequence(words.next()?.parse().ok()?);
    Some((group, last, hex::decode(words.next()?).ok()?.try_into().ok()?))
}

#[test]
fn what_a_killed_agent_acknowledged_is_there() {
    if let Some(of) = std::env::var_os(VARIABLE) {
        let of = of.into_string().unwrap();
        let (backend, directory) = of.split_once(':').unwrap();
        return child(Path::new(directory), if backend == "plain" { IoBackend::Plain } else { IoBackend::IoUring });
    }
    on_both("what_a_killed_agent_acknowledged_is_there", |backend| {
        let directory = tempfile::tempdir().unwrap();
        let mut acknowledged_in_all = 0;
        let mut cut_off = 0;
        for kill in 0..KILLS {
            let name = if backend == IoBackend::Plain { "plain" } else { "io_uring" };
            let variable = format!("{name}:{}", directory.path().display());
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "journal::tests::killed::what_a_killed_agent_acknowledged_is_there"])
                .env(VARIABLE, variable)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let mut answers = lines.filter_map(|line| parse(&line));
            // Every fourth child dies while it starts, the others after some answers and a moment.
            let mut acknowledged = Vec::new();
            if kill % 4 > 0 {
                acknowledged.extend(answers.by_ref().take(1 + usize::try_from(kill * 7 % 23).unwrap()));
            }
            std::thread::sleep(Duration::from_micros(kill * 3701 % 17_000));
            child.kill().unwrap();
            child.wait().unwrap();
            acknowledged.extend(answers);
            acknowledged_in_all += acknowledged.len();
            let (journal, recovered) = open(&config(directory.path(), backend));
            assert_eq!(recovered.damage, [], "kill {kill}");
            cut_off += u32::from(recovered.torn_bytes > 0);
            let reader = journal.reader();
            for group in (0..GROUPS).map(GroupId) {
                let Some(state) = recovered.groups.get(&group) else { continue };
                assert!(state.gaps.is_empty() && !state.tail_suspect);
                let first = Sequence(state.first.0.max(1));
                // In order and without a hole, or this is an error.
                let frames = reader.read(group, first, usize::MAX).unwrap();
                let there: HashMap<Sequence, [u8; 32]> =
                    frames.iter().map(|frame| (frame.last_sequence(), frame.hash())).collect();
                for (_, last, hash) in acknowledged.iter().filter(|(of, last, _)| *of == group && *last >= first) {
                    assert_eq!(there.get(last), Some(hash), "kill {kill}: frame of group {group} to {last}");
                }
                let last = acknowledged.iter().rfind(|(of, ..)| *of == group).map_or(Sequence(0), |(_, last, _)| *last);
                assert!(state.tail.sequence >= last, "kill {kill}");
            }
        }
        println!("{KILLS} kills, {acknowledged_in_all} frames acknowledged, {cut_off} writes cut off");
        assert!(acknowledged_in_all > 200, "the children must have done something");
    });
}
