//! Logs that were torn, damaged, and written anew.

use super::*;
use crate::coordinator::Condition;

const NOW: BootNs = BootNs(1_000_000_000_000);

fn put(key: &str, value: &[u8]) -> Txn {
    let write = Write::Put { key: key.to_owned(), value: value.to_vec(), ttl_ms: None };
    Txn { conditions: Vec::new(), writes: vec![write] }
}

fn opened(path: &Path) -> Log {
    let mut log = Log::new(path);
    log.create().expect("created");
    log.read_on(true).expect("read");
    log
}

fn written(log: &mut Log, txn: &Txn) {
    assert!(log.holds(txn));
    log.write(txn, "b", NOW).expect("written");
}

#[test]
fn a_line_that_was_torn_at_any_byte_is_cut_off_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let mut log = opened(&path);
    written(&mut log, &put("a", b"{\"x\":1}\n\xff"));
    let before = std::fs::metadata(&path).expect("there").len();
    written(&mut log, &put("b", b"second"));
    let whole = std::fs::read(&path).expect("read");
    for cut in usize::try_from(before).expect("small")..whole.len() {
        for tail in [&b""[..], &b"\0\0\0"[..], &b"\0\n\0"[..]] {
            let mut bytes = whole[..cut].to_vec();
            bytes.extend(tail);
            std::fs::write(&path, bytes).expect("written");
            let mut reader = Log::new(&path);
            reader.read_on(false).expect("a reader lets it be");
            assert_eq!((reader.revision, reader.entries.len()), (2, 1), "cut at {cut}");
            let mut writer = opened(&path);
            assert_eq!(writer.entries["a"].value, b"{\"x\":1}\n\xff");
            written(&mut writer, &put("c", b"third"));
            reader.read_on(false).expect("goes on");
            assert_eq!((reader.revision, reader.entries.contains_key("c")), (3, true));
        }
    }
}

#[test]
fn damage_in_the_middle_is_an_error_and_not_a_loss() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let mut log = opened(&path);
    written(&mut log, &put("a", b"1"));
    let at = std::fs::metadata(&path).expect("there").len();
    written(&mut log, &put("a", b"2"));
    written(&mut log, &put("a", b"3"));
    let whole = std::fs::read(&path).expect("read");
    for bit in 0..8 {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).expect("small") + 20] ^= 1 << bit;
        std::fs::write(&path, bytes).expect("written");
        let damaged = matches!(Log::new(&path).read_on(true), Err(LogError::Damaged { at: found, .. }) if found == at);
        assert!(damaged, "bit {bit}");
    }
    for bad in [&b""[..], b"hello\n", &whole[..10]] {
        std::fs::write(&path, bad).expect("written");
        assert!(matches!(Log::new(&path).read_on(true), Err(LogError::Damaged { .. })));
    }
}

#[test]
fn a_log_written_anew_is_read_on_without_a_gap_unless_one_was_missed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    let mut log = opened(&path);
    let mut reader = opened(&path);
    written(&mut log, &put("a", b"1"));
    log.rewrite().expect("anew");
    written(&mut log, &put("b", b"2"));
    let found = reader.read_on(false).expect("read");
    assert!(!found.gap);
    assert_eq!(found.changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [2, 3]);
    log.rewrite().expect("anew");
    written(&mut log, &put("c", b"3"));
    log.rewrite().expect("anew");
    let found = reader.read_on(false).expect("read");
    assert!(found.gap, "revision 4 was only in a file that is gone");
    assert_eq!(reader.entries.len(), 3);
    assert_eq!((opened(&path).base, reader.revision), (4, 4));
}

#[test]
fn time_of_another_boot_does_not_count_but_the_time_since_it_does() {
    let expiry = Expiry::new("one", BootNs(500), 1);
    assert!(!expiry.over("one", BootNs(1_000_499)) && expiry.over("one", BootNs(1_000_500)));
    assert!(!expiry.over("two", BootNs(999_999)) && expiry.over("two", BootNs(1_000_000)));
}

#[test]
fn conditions_are_of_the_last_change_of_a_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = opened(&directory.path().join("log"));
    written(&mut log, &put("a", b"1"));
    let holds = |log: &Log, condition: Condition| log.holds(&Txn { conditions: vec![condition], writes: Vec::new() });
    let revision = |key: &str, revision| Condition::Revision { key: key.to_owned(), revision };
    assert!(holds(&log, revision("a", 2)) && !holds(&log, revision("a", 1)) && !holds(&log, revision("a", 0)));
    assert!(holds(&log, revision("b", 0)) && holds(&log, Condition::Absent { key: "b".to_owned() }));
    assert!(!holds(&log, Condition::Absent { key: "a".to_owned() }));
    let delete = Txn { conditions: Vec::new(), writes: vec![Write::Delete { key: "nobody".to_owned() }] };
    written(&mut log, &delete);
    assert_eq!(log.revision, 2, "nothing was there to delete");
}
