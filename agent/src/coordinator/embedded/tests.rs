//! The suite on directories, and a process that dies at any moment.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::coordinator::conformance::{self, World};
use crate::coordinator::{Condition, Write};

struct Directory {
    at: tempfile::TempDir,
    frozen: Vec<Flock<File>>,
}

impl Directory {
    fn root(&self) -> PathBuf {
        self.at.path().join("coordinator")
    }
}

impl World for Directory {
    fn open(&mut self, cluster: ClusterId, timeout: Duration) -> Box<dyn Coordinator> {
        Box::new(Embedded::open(&self.root(), cluster, timeout).expect("opens"))
    }

    fn stop(&mut self) {
        std::fs::rename(self.root(), self.at.path().join("away")).expect("renamed");
    }

    fn start(&mut self) {
        std::fs::rename(self.at.path().join("away"), self.root()).expect("renamed");
    }

    fn freeze(&mut self) {
        for cluster in std::fs::read_dir(self.root()).expect("there").flatten() {
            let lock = File::open(cluster.path().join("lock")).expect("there");
            self.frozen.push(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("locked"));
        }
    }

    fn thaw(&mut self) {
        self.frozen.clear();
    }

    fn compact(&mut self, cluster: ClusterId) {
        let mut of = Embedded::open(&self.root(), cluster, Duration::from_secs(10)).expect("opens");
        of.compact().expect("compacts");
    }

    fn frozen_is_unknown(&self) -> bool {
        false
    }
}

#[test]
fn the_embedded_coordinator_conforms() {
    let mut world = Directory { at: tempfile::tempdir().expect("a directory"), frozen: Vec::new() };
    conformance::run(&mut world);
}

const VARIABLE: &str = "UNDERSTUDY_TEST_EMBEDDED_CHILD";
const KILLS: u64 = 20;

/// Counts, two keys at a time, and says what was acknowledged.
fn child(root: &Path) {
    let mut of = Embedded::open(root, ClusterId(1), Duration::from_secs(10)).expect("opens");
    loop {
        let found = of.snapshot().expect("a snapshot");
        let value =
            found.keys.first().map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse::<u64>().expect("number"));
        let put = |key: &str| Write::Put {
            key: key.to_owned(),
            value: (value + 1).to_string().into_bytes(),
            ttl_ms: Some(3_600_000),
        };
        let revision = found.keys.first().map_or(0, |kv| kv.revision);
        let conditions = vec![Condition::Revision { key: "a".to_owned(), revision }];
        if let TxnOutcome::Done { .. } =
            of.transact(&Txn { conditions, writes: vec![put("a"), put("b")] }).expect("done")
        {
            println!("acknowledged {}", value + 1);
        }
    }
}

#[test]
fn what_a_killed_process_acknowledged_is_there_and_both_keys_or_none() {
    if let Some(root) = std::env::var_os(VARIABLE) {
        return child(Path::new(&root));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut all = 0;
    for kill in 0..KILLS {
        let name = "what_a_killed_process_acknowledged_is_there_and_both_keys_or_none";
        let mut children: Vec<_> = (0..2)
            .map(|_| {
                Command::new(std::env::current_exe().expect("a path"))
                    .args(["--exact", "--nocapture", &format!("coordinator::embedded::tests::{name}")])
                    .env(VARIABLE, directory.path())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("starts")
            })
            .collect();
        let mut told: Vec<_> = children
            .iter_mut()
            .map(|child| BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok))
            .map(|lines| lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok()))
            .collect();
        let mut last = told[0].by_ref().take(1 + usize::try_from(kill % 5).expect("small")).last().expect("some");
        std::thread::sleep(Duration::from_micros(kill * 3701 % 17_000));
        for child in &mut children {
            child.kill().expect("killed");
            child.wait().expect("waited for");
        }
        for told in told {
            last = told.fold(last, u64::max);
        }
        let mut of = Embedded::open(directory.path(), ClusterId(1), Duration::from_secs(10)).expect("opens");
        let found = of.snapshot().expect("a snapshot").keys;
        assert_eq!((found.len(), &found[0].value, found[0].revision), (2, &found[1].value, found[1].revision));
        let value: u64 = String::from_utf8_lossy(&found[0].value).parse().expect("a number");
        // Of each process, one may have been written and not told.
        assert!((last..=last + 2).contains(&value), "kill {kill}: {last} was acknowledged, {value} is there");
        all = value;
    }
    assert!(all > KILLS, "they came to do something: {all}");
}

#[test]
fn a_log_that_has_grown_is_written_anew_under_a_running_watch() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut of = Embedded::open(directory.path(), ClusterId(1), Duration::from_secs(10)).expect("opens");
    let (sender, events) = crossbeam::channel::unbounded();
    let from = of.snapshot().expect("a snapshot").revision;
    let _watch = of.watch(from, Box::new(move |event| _ = sender.send(event))).expect("a watch");
    let value = vec![b'x'; 60_000];
    let path = directory.path().join("0000000000000001/log");
    let mut shrunk = 0;
    let mut before = 0;
    let mut seen = 0;
    for n in 0..80_u64 {
        let put = Write::Put { key: format!("key/{}", n % 3), value: value.clone(), ttl_ms: None };
        of.transact(&Txn { conditions: Vec::new(), writes: vec![put] }).expect("done");
        let bytes = std::fs::metadata(&path).expect("there").len();
        shrunk += u32::from(bytes < before);
        before = bytes;
        // Slower than that, so that it misses none of the files.
        match events.recv_timeout(Duration::from_secs(30)).expect("an event") {
            crate::coordinator::WatchEvent::Changed(changes) => seen += changes.len(),
            crate::coordinator::WatchEvent::Lost(why) => panic!("lost: {why}"),
        }
    }
    assert_eq!(seen, 80);
    assert!(shrunk >= 1, "it was written anew");
    assert_eq!(of.snapshot().expect("a snapshot").keys.len(), 3);
}
