//! The picture, held against a kept one; and that it never fails on a small terminal or odd figures.

use super::*;
use crate::clock::MonoNs;
use crate::pressure::{Pressure, PressureSample, PressureState, Space, Waited};
use crate::probe::histogram::Distribution;
use crate::probe::{InFlight, ProbeSample, RowSample, Source};
use crate::signal::{JournalFigures, PeerFigures, RecordFigures, RingFigures};

fn row(name: &'static str, count: u64, p50_ns: u64, errnos: &[(u16, u64)]) -> RowSample {
    RowSample {
        row: name.into(),
        times: Distribution { count, sum_ns: count * p50_ns, p50_ns, p99_ns: p50_ns * 9, max_ns: p50_ns * 40 },
        errors: errnos.iter().map(|(_, count)| count).sum(),
        errnos: errnos.to_vec(),
    }
}

fn model() -> TopModel {
    let mut probe = ProbeSample {
        source: Source::Kernel,
        store_pid: 812,
        store_is_alive: true,
        rows: vec![
            row("read", 5_210, 1_279, &[(11, 40)]),
            row("fsync", 120, 1_048_575, &[]),
            row("open", 340, 9_215, &[(2, 12), (17, 1)]),
            row("run_queue", 2_000, 5_119, &[]),
            row("block_write", 90, 786_431, &[(10, 1)]),
        ],
        in_flight: 3,
        oldest: Some(InFlight {
            pid: 900,
            tid: 900,
            comm: "imap".to_owned(),
            class: "fsync".into(),
            syscall: 74,
            age_ns: 1_240_000_000,
        }),
        oldest_block_ns: 1_200_000_000,
        blind: vec!["io_uring operations".to_owned()],
        ..ProbeSample::default()
    };
    probe.tree.processes = 13;
    probe.tree.threads = 13;
    probe.tree.descriptors = 410;
    probe.tree.descriptors_worst_permille = 61;
    probe.tree.anonymous_bytes = 48 << 20;
    probe.lost.event = 2;
    probe.events.exits = 4;
    probe.events.block_errors = 1;
    let io = Waited { some_permille: 125, full_permille: Some(80) };
    let pressure = PressureSample {
        node: PressureState::Known(Pressure { io, ..Pressure::default() }),
        store: PressureState::Known(Pressure { io, ..Pressure::default() }),
        space: Some(Space {
            bytes: 256 << 30,
            free_bytes: 64 << 30,
            inodes: 1000,
            free_inodes: 900,
            is_read_only: false,
        }),
    };
    let peer = |name: &str, is_connected: bool, lag: u64| PeerFigures {
        name: name.to_owned(),
        is_connected,
        lag_operations: lag,
        lag_bytes: lag * 300,
        lag_ns: lag * 1_000_000,
        shipped: 10_000,
        acked: 10_000 - lag,
        beat_age_ns: is_connected.then_some(400_000_000),
    };
    let record = RecordFigures {
        ring: RingFigures { used_bytes: 4096, capacity_bytes: 16 << 20, changes_open: 7, gaps: 0, records: 10_020 },
        journal: JournalFigures {
            captured: 10_020,
            journaled: 10_010,
            applied: 4_000,
            bytes: 3 << 20,
            fsync_p50_ns: 900_000,
            fsync_p99_ns: 4_100_000,
        },
        peers: vec![peer("beta", true, 12), peer("gamma", false, 800)],
    };
    TopModel {
        node: "alpha".to_owned(),
        version: "0.1.0".to_owned(),
        state: "serving".to_owned(),
        uptime_ns: 7_380_000_000_000,
        signal: Some(Signal::merge(probe, pressure, record, MonoNs(1))),
        capabilities: Vec::new(),
        beat_lateness_ns: 120_000,
        beat_unprotected: String::new(),
    }
}

#[test]
fn the_picture_is_the_kept_one() {
    let drawn = once(&model()).expect("draws");
    assert_eq!(drawn, include_str!("testdata/top.txt"), "\n{drawn}");
}

#[test]
fn the_model_survives_its_own_json() {
    let text = serde_json::to_string(&model()).expect("writes");
    assert_eq!(serde_json::from_str::<TopModel>(&text).expect("reads"), model());
}

#[test]
fn any_size_and_an_empty_model_can_be_drawn() {
    for (width, height) in [(0, 0), (1, 1), (20, 5), (80, 24), (300, 100)] {
        for model in [TopModel::default(), model()] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("makes");
            terminal.draw(|frame| view::render_with(frame, &model, Some("no answer"))).expect("draws");
        }
    }
    assert!(once(&TopModel::default()).expect("draws").contains("no second is over yet"));
}

#[test]
fn without_kernel_programs_the_view_says_what_is_not_seen() {
    let mut blind = model();
    let signal = blind.signal.as_mut().expect("there");
    signal.probe.source = Source::Proc;
    signal.probe.oldest = None;
    signal.blind = vec!["latencies of system calls".to_owned()];
    let drawn = once(&blind).expect("draws");
    assert!(drawn.contains("seen by /proc only") && drawn.contains("latencies of system calls"), "{drawn}");
}
