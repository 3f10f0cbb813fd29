//! The kernel programs on the running kernel: what a tracked process tree does is counted, exactly.
//!
//! Owns: a tree of real processes (this test binary, started again in a role) and the figures expected of it. Needs
//! root or CAP_BPF and CAP_PERFMON, and an agent built with the kernel programs; without them each test says so in
//! one line and ends. Refuses: judging how long anything takes; half a minute without what was expected is a failure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use understudy_agent::probe::kernel::KernelProbe;
use understudy_agent::probe::sample::LostCounts;
use understudy_agent::probe::{EMBEDDED_OBJECT, KernelEvent, Probe, ProbeConfig, ProbeSample, Source, devices_of};

const ROLE: &str = "UNDERSTUDY_TEST_ROLE";

/// Says why the test cannot run, in the one line that the runner counts.
fn skipped(test: &str) -> bool {
    let missing = Probe::check().into_iter().find(|capability| !capability.ok);
    if let Some(missing) = &missing {
        assert!(!missing.reason.contains("Verifier"), "the kernel refuses a program: {}", missing.reason);
        println!("SKIPPED {test}: `{}`: {}; {}", missing.hook, missing.reason, missing.remedy);
    }
    missing.is_some()
}

/// A process of this binary that does what it is told, line by line.
struct Actor {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Actor {
    fn start(dir: &Path) -> Self {
        let mut child = command(dir, "actor").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut actor = Self { child, orders, answers };
        actor.expect("ready");
        actor
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders.as_mut().expect("open"), "{order}").expect("the actor lives");
    }

    fn expect(&mut self, answer: &str) {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).expect("readable"), 0, "the actor ended before `{answer}`");
            if line.trim_end() == answer {
                return;
            }
        }
    }

    fn ask(&mut self, order: &str) {
        self.tell(order);
        self.expect("done");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.orders.take();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["role", "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role).current_dir(dir);
    command
}

/// Not a test of its own: what a process does that was started in a role.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("actor") => {
            // libtest leaves its own words on the line before.
            println!("\nready");
            for line in std::io::stdin().lines() {
                act(&line.expect("readable"));
                println!("\ndone");
            }
        }
        Ok(order) => act(order),
        Err(_) => {}
    }
}

fn act(order: &str) {
    let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
    let here = std::env::current_dir().expect("a folder");
    match verb {
        "fsync" => {
            let file = File::create(format!("f{}", std::process::id())).expect("create");
            for _ in 0..rest.parse().expect("a number") {
                file.sync_all().expect("fsync");
            }
        }
        "missing" => {
            for _ in 0..rest.parse().expect("a number") {
                assert!(File::open("no-such-file").is_err());
            }
        }
        "grandchild" => {
            let status = command(&here, rest).stdout(Stdio::null()).status().expect("spawn");
            assert!(status.success());
        }
        "exit" => std::process::exit(rest.parse().expect("a number")),
        "kill" => {
            let mut victim = Command::new("sleep").arg("1000").spawn().expect("spawn");
            victim.kill().expect("kill");
            victim.wait().expect("wait");
        }
        "exit-3" => {
            let status = command(&here, "exit 3").stdout(Stdio::null()).status().expect("spawn");
            assert_eq!(status.code(), Some(3));
        }
        "lock" => drop(Flock::lock(File::create("lock").expect("create"), FlockArg::LockExclusive).expect("lock")),
        "write" => {
            let mut file = File::create(format!("w{}", std::process::id())).expect("create");
            for _ in 0..16 {
                file.write_all(&[7; 65_536]).expect("write");
                file.sync_all().expect("fsync");
            }
        }
        "eat" => {
            let mut eaten = Vec::new();
            for _ in 0..rest.parse().expect("megabytes") {
                eaten.push(vec![1u8; 1 << 20]);
            }
            println!("{}", eaten.len());
        }
        _ => panic!("unknown order `{order}`"),
    }
}

fn next(probe: &Probe) -> ProbeSample {
    probe.samples.recv_timeout(Duration::from_secs(60)).expect("a sample a second")
}

#[derive(Default, Debug)]
struct Sums {
    samples: u32,
    count: BTreeMap<String, u64>,
    errors: BTreeMap<(String, u16), u64>,
    forks: u64,
}

impl Sums {
    fn add(&mut self, sample: &ProbeSample) {
        self.samples += 1;
        self.forks += sample.events.forks;
        for row in &sample.rows {
            *self.count.entry(row.row.to_string()).or_default() += row.times.count;
            for (errno, count) in &row.errnos {
                *self.errors.entry((row.row.to_string(), *errno)).or_default() += count;
            }
        }
    }

    fn of(&self, row: &str) -> u64 {
        self.count.get(row).copied().unwrap_or(0)
    }
}

/// Samples after which a test stops waiting, so that what never comes is a failed assertion and not a hang.
const SAMPLES_MAX: u32 = 30;

/// Sums the samples until `enough`; returns the sums and the last sample.
fn gather(probe: &Probe, mut enough: impl FnMut(&Sums) -> bool) -> (Sums, ProbeSample) {
    let mut sums = Sums::default();
    loop {
        let sample = next(probe);
        sums.add(&sample);
        if enough(&sums) || sums.samples >= SAMPLES_MAX {
            return (sums, sample);
        }
    }
}

fn probe_of(pid: u32) -> Probe {
    let probe = Probe::start(ProbeConfig { store_pid: Some(pid), measure_cost: true, ..ProbeConfig::default() });
    let probe = probe.expect("starts");
    assert_eq!(probe.source, Source::Kernel);
    probe
}

#[test]
fn calls_and_errors_are_counted_exactly_and_of_tracked_processes_only() {
    if skipped("calls_and_errors_are_counted_exactly_and_of_tracked_processes_only") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (mut tracked, mut other) = (Actor::start(dir.path()), Actor::start(dir.path()));
    let probe = probe_of(tracked.pid());
    other.ask("fsync 100");
    other.ask("missing 100");
    tracked.ask("fsync 100");
    tracked.ask("missing 7");
    let (mut sums, _) = gather(&probe, |sums| sums.of("fsync") >= 100 && sums.samples >= 2);
    // By now it sleeps in `read`; this wakes it, so that a sleep and a wait for a processor are seen for certain.
    tracked.ask("missing 0");
    sums.add(&next(&probe));
    let last = next(&probe);
    sums.add(&last);
    assert_eq!(sums.of("fsync"), 100, "{sums:?}");
    assert_eq!(sums.errors.get(&("open".to_owned(), libc::ENOENT as u16)), Some(&7), "{sums:?}");
    assert_eq!(last.lost.total(), 0, "{:?}", last.lost);
    assert!(sums.of("run_queue") > 0 && sums.of("off_cpu_sleep") > 0, "{sums:?}");
    assert!(last.store_is_alive && last.tree.processes == 1, "{last:?}");
    assert!(last.cost.map_bytes > 0, "{:?}", last.cost);
}

#[test]
fn a_process_forked_later_is_followed_and_the_next_store_is_followed_instead() {
    if skipped("a_process_forked_later_is_followed_and_the_next_store_is_followed_instead") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (mut first, mut second) = (Actor::start(dir.path()), Actor::start(dir.path()));
    let probe = probe_of(first.pid());
    first.ask("grandchild grandchild fsync 50");
    let (mut sums, _) = gather(&probe, |sums| sums.of("fsync") >= 50 && sums.forks >= 2);
    sums.add(&next(&probe));
    assert_eq!((sums.of("fsync"), sums.forks), (50, 2), "{sums:?}");

    probe.set_store_pid(Some(second.pid()));
    while next(&probe).store_pid != second.pid() {}
    first.ask("fsync 30");
    second.ask("fsync 20");
    let (mut sums, _) = gather(&probe, |sums| sums.of("fsync") >= 20 && sums.samples >= 2);
    sums.add(&next(&probe));
    assert_eq!(sums.of("fsync"), 20, "{sums:?}");
}

#[test]
fn exits_and_kills_are_reported() {
    if skipped("exits_and_kills_are_reported") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut actor = Actor::start(dir.path());
    let (own, pid) = (std::process::id(), actor.pid());
    let probe = probe_of(pid);
    actor.ask("exit-3");
    actor.ask("kill");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
    let mut seen = Vec::new();
    while !seen.iter().any(|event| matches!(event, KernelEvent::Exit { is_store: true, .. })) {
        seen.push(probe.events.recv_timeout(Duration::from_secs(60)).expect("the exit of the store"));
    }
    let has = |wanted: &dyn Fn(&KernelEvent) -> bool| seen.iter().filter(|event| wanted(event)).count();
    assert_eq!(has(&|e| matches!(e, KernelEvent::Exit { status: 3, signal: 0, is_store: false, .. })), 1, "{seen:?}");
    assert_eq!(has(&|e| matches!(e, KernelEvent::Exit { signal: 9, is_store: false, .. })), 1, "{seen:?}");
    assert_eq!(has(&|e| matches!(e, KernelEvent::Exit { signal: 9, is_store: true, .. })), 1, "{seen:?}");
    let killed = |event: &KernelEvent| match event {
        KernelEvent::Signal { signal: 9, pid, sender_pid, .. } => Some((*pid, *sender_pid)),
        _ => None,
    };
    let kill_of = |target: u32, sender: u32| has(&|event| killed(event) == Some((target, sender)));
    assert_eq!(kill_of(pid, own), 1, "{seen:?}");
    let (_, last) = gather(&probe, |sums| sums.samples >= 2);
    assert!(!last.store_is_alive);
    assert_eq!((last.tree.processes, last.lost.total()), (0, 0), "{last:?}");
}

#[test]
fn a_call_that_works_ages_and_a_wait_for_a_peer_does_not() {
    if skipped("a_call_that_works_ages_and_a_wait_for_a_peer_does_not") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let held = Flock::lock(File::create(dir.path().join("lock")).expect("create"), FlockArg::LockExclusive);
    let held = held.expect("nobody holds it yet");
    let mut actor = Actor::start(dir.path());
    let probe = probe_of(actor.pid());
    actor.ask("fsync 1");
    // The actor now waits in `read` on its pipe; the samples before may have seen it at work.
    gather(&probe, |sums| sums.samples >= 2);
    let idle = next(&probe);
    assert!(idle.oldest.is_none() && idle.in_flight == 0, "{idle:?}");
    actor.tell("lock");
    let mut age_ns = 0;
    for _ in 0..SAMPLES_MAX {
        let sample = next(&probe);
        if let Some(call) = &sample.oldest {
            assert_eq!((&*call.class, call.pid), ("lock", actor.pid()), "{call:?}");
            assert!(call.age_ns > age_ns, "{call:?}");
        }
        age_ns = sample.oldest_ns();
        if age_ns >= 1_500_000_000 {
            break;
        }
    }
    assert!(age_ns >= 1_500_000_000, "{age_ns}");
    drop(held);
    actor.expect("done");
    gather(&probe, |sums| sums.of("lock") >= 1 && sums.samples >= 2);
    let after = next(&probe);
    assert!(after.oldest.is_none(), "{after:?}");
}

#[test]
fn requests_to_the_stores_device_are_timed() {
    let test = "requests_to_the_stores_device_are_timed";
    if skipped(test) {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let paths = vec![dir.path().to_owned()];
    if let Some(reason) = devices_of(&paths).1.first() {
        println!("SKIPPED {test}: {reason}");
        return;
    }
    let mut actor = Actor::start(dir.path());
    let config = ProbeConfig { store_pid: Some(actor.pid()), store_paths: paths, ..ProbeConfig::default() };
    let probe = Probe::start(config).expect("starts");
    actor.ask("write");
    let (sums, last) = gather(&probe, |sums| sums.of("fsync") >= 16 && sums.of("block_write") >= 16);
    assert!(sums.of("block_write") >= 16, "{sums:?}");
    assert_eq!(last.events.block_errors, 0);
}

#[test]
fn events_that_do_not_fit_are_counted_one_by_one() {
    const SIGNALS: u64 = 20_000;
    if skipped("events_that_do_not_fit_are_counted_one_by_one") {
        return;
    }
    let mut deaf = Command::new("sh");
    let deaf = deaf.args(["-c", "trap '' TERM; echo ready; exec sleep 1000"]).stdout(Stdio::piped());
    let mut deaf = deaf.spawn().expect("spawn");
    let mut line = String::new();
    BufReader::new(deaf.stdout.take().expect("piped")).read_line(&mut line).expect("ready");
    let mut probe = KernelProbe::load(EMBEDDED_OBJECT, false, &mut Vec::new()).expect("loads");
    probe.retarget(&[deaf.id()].into());
    let pid = nix::unistd::Pid::from_raw(deaf.id().cast_signed());
    for _ in 0..SIGNALS {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    }
    let mut seen = 0;
    while let Some(event) = probe.next_event() {
        assert!(event.is_some(), "every event can be decoded");
        seen += 1;
    }
    let mut lost = LostCounts::default();
    probe.read_lost(&mut lost);
    deaf.kill().expect("kill");
    deaf.wait().expect("wait");
    assert!(lost.event > 0 && seen > 0, "{seen} {lost:?}");
    assert_eq!(seen + lost.event, SIGNALS, "{lost:?}");
}

#[test]
fn a_memory_kill_is_reported() {
    let test = "a_memory_kill_is_reported";
    if skipped(test) {
        return;
    }
    let Some(group) = MemoryGroup::make(32 << 20) else {
        println!("SKIPPED {test}: no memory control group can be made here");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let mut actor = Actor::start(dir.path());
    let probe = probe_of(actor.pid());
    group.enter(actor.pid());
    actor.tell("eat 512");
    let wanted = actor.pid();
    loop {
        match probe.events.recv_timeout(Duration::from_secs(60)).expect("the kill") {
            KernelEvent::OomKill { pid, is_store, .. } if pid == wanted => {
                assert!(is_store);
                break;
            }
            _ => {}
        }
    }
    drop(actor);
    drop(group);
}

/// A control group with a memory limit, of either version; removed when dropped.
struct MemoryGroup(std::path::PathBuf);

impl MemoryGroup {
    fn make(bytes: u64) -> Option<Self> {
        let name = format!("understudy-test-{}", std::process::id());
        let bytes = bytes.to_string();
        for (mount, limit, swap, swap_limit) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes.as_str()),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max", "0"),
        ] {
            let folder = Path::new(mount).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self(folder);
            if fs::write(group.0.join(limit), &bytes).is_ok() {
                // A machine without swap accounting has no such file, and needs none.
                let _ = fs::write(group.0.join(swap), swap_limit);
                return Some(group);
            }
        }
        None
    }

    fn enter(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("enter the group");
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn without_kernel_programs_the_sample_names_what_it_cannot_see() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let mut actor = Actor::start(dir.path());
    let config = ProbeConfig { store_pid: Some(actor.pid()), without_kernel_programs: true, ..ProbeConfig::default() };
    let probe = Probe::start(config).expect("starts");
    assert_eq!(probe.source, Source::Proc);
    assert!(probe.capabilities.iter().any(|capability| !capability.ok && !capability.remedy.is_empty()));
    let _ = next(&probe);
    actor.ask("write");
    let mut writes = 0;
    for _ in 0..SAMPLES_MAX {
        let sample = next(&probe);
        assert!(sample.rows.is_empty() && sample.blind.len() >= 5 && sample.store_is_alive, "{sample:?}");
        assert!(sample.tree.processes == 1 && sample.tree.anonymous_bytes > 0, "{sample:?}");
        writes += sample.tree.writes;
        if writes >= 16 {
            return;
        }
    }
    panic!("{writes} writes seen of 16");
}
