//! The ring's consumer against a producer that writes anything anywhere.
//!
//! Owns: the reading of a byte string as a sequence of honest publications, polls, and wild writes. What must hold:
//! no panic, no poll without end, no record longer than the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use understudy_ring::{Consumer, Event, Geometry, HeapMemory, Producer, RecordSpec};

const GENERATION: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    let geometry = Geometry { data_bytes: 4096, descriptors: 16, completions: 4, producers: 8, intents: 4 };
    let Ok(layout) = geometry.layout() else { return };
    let memory = Arc::new(HeapMemory::new(layout));
    memory.set_held(1, true);
    let producer = Producer::new(Arc::clone(&memory), GENERATION, 1, 1);
    let mut consumer = Consumer::new(Arc::clone(&memory), GENERATION, None, 1);
    for step in bytes.chunks(12) {
        let [what, place @ ..] = step else { continue };
        let place_bytes = <[u8; 3]>::try_from(place.get(..3).unwrap_or(&[0; 3])).unwrap_or_default();
        let at = u32::from_le_bytes([place_bytes[0], place_bytes[1], place_bytes[2], 0]) as usize;
        let value = u64::from_le_bytes(step.get(4..12).and_then(|eight| eight.try_into().ok()).unwrap_or_default());
        match what % 8 {
            0 | 1 => {
                let payload = &bytes[..at.min(bytes.len()).min(1200)];
                let _ = producer.publish(&RecordSpec::op(b"ada@example.test", payload, value));
            }
            2 | 3 => {
                for _ in 0..=at % 16 {
                    if let Some(Event::Record(record)) = consumer.poll() {
                        assert!(record.account.len() + record.payload.len() <= geometry.record_bytes_max());
                    }
                }
            }
            4 => consumer.release(consumer.read_index()),
            5 => memory.poke(at, |_| value),
            6 => memory.poke(at, |word| word ^ 1 << (value % 64)),
            _ => match value % 4 {
                0 => memory.set_held(1, at % 2 == 0),
                1 => drop(consumer.take_gaps()),
                2 => {
                    drop(consumer);
                    consumer = Consumer::new(Arc::clone(&memory), GENERATION, None, 1);
                }
                // The words that matter most are few; reach them often.
                _ => memory.poke(48 + at % 2 * 16, |word| word.wrapping_add(value >> 2)),
            },
        }
    }
});
