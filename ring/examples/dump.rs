//! Prints what stores publish: a stand-in for the agent, for people who work on a store's plugin.
//!
//! Owns: nothing that lasts; it makes the ring if there is none, and lets every record go after printing it.
//! What can hurt: run beside an agent it is refused, because a ring has one consumer. Refuses: keeping anything.
//!
//! `cargo run -p understudy-ring --example dump -- RING [none|local|peer] [go-on|refuse] [active|replica|off]`

use std::path::PathBuf;
use std::process::ExitCode;
use understudy_ring::{AckLevel, Consumer, ConsumerOptions, Event, OnTimeout, Policy, RecordKind, Role, Status};
use understudy_types::op::Op;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(path) = words.first().map(PathBuf::from) else {
        eprintln!("usage: dump RING [none|local|peer] [go-on|refuse] [active|replica|off]");
        return ExitCode::FAILURE;
    };
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let policy = Policy {
        replicated: word(3) != "off",
        role: if word(3) == "replica" { Role::Replica } else { Role::Active },
        level: match word(1) {
            "peer" => AckLevel::Peer,
            "local" => AckLevel::Local,
            _ => AckLevel::None,
        },
        on_timeout: if word(2) == "refuse" { OnTimeout::Refuse } else { OnTimeout::GoOn },
        ..Policy::default()
    };
    let options = ConsumerOptions { mode: 0o666, default_policy: policy, ..ConsumerOptions::default() };
    let mut consumer = match Consumer::attach(&path, &options, 0) {
        Ok(consumer) => consumer,
        Err(error) => {
            eprintln!("{error:?}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        let Some(event) = consumer.poll() else {
            let gaps = consumer.take_gaps();
            if !gaps.is_empty() {
                println!("gaps in buckets {gaps:?}");
                consumer.gaps_done(&gaps);
            }
            consumer.wait(500_000_000);
            continue;
        };
        if let Event::Record(record) = &event {
            let account = String::from_utf8_lossy(&record.account);
            let (kind, intent) = (record.kind, record.intent);
            match kind {
                RecordKind::Op => {
                    println!("{account} intent={intent} flags={} {:?}", record.flags, Op::decode(&record.payload))
                }
                _ => println!("{account} intent={intent} {kind:?} {:02x?}", record.payload),
            }
            if let Some(at) = record.completion {
                let status = if policy.level == AckLevel::Peer { Status::Replicated } else { Status::Durable };
                let taken = if kind == RecordKind::AccountOpen {
                    consumer.complete_policy(at, &policy)
                } else {
                    consumer.complete(at, status, &[])
                };
                if !taken {
                    println!("{account} no longer waits");
                }
            }
        } else {
            println!("{event:?}");
        }
        consumer.release(consumer.read_index());
    }
}
