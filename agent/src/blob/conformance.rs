//! What every [`BlobStore`] must do, as one suite that runs on each of them, real servers included.
//!
//! Owns: the expectations. It asserts, so it is called from tests only.

use std::fs;
use std::path::Path;

use understudy_types::id::BlobId;

use super::{BlobError, BlobStore, Put};

/// Runs the suite. `scratch` is a directory for files; `tamper(id, Some(bytes))` overwrites what is stored under
/// `id`, `tamper(id, None)` removes it.
///
/// # Panics
/// When the store does not conform.
pub fn run(store: &dyn BlobStore, scratch: &Path, tamper: &mut dyn FnMut(BlobId, Option<&[u8]>)) {
    let body = b"From: a@example.test\r\n\r\nHello\r\n".repeat(1000);
    let id = BlobId(*blake3::hash(&body).as_bytes());
    let file = scratch.join("body");
    fs::write(&file, &body).expect("scratch file");

    let absent = BlobId([1; 32]);
    assert!(!store.has(absent).expect("has answers"), "a body that nobody stored is not there");
    let to = scratch.join("out");
    assert!(matches!(store.get(absent, &to), Err(BlobError::Missing(found)) if found == absent));
    assert!(!to.exists(), "a failed get leaves no file");

    assert_eq!(store.put(id, &file).expect("put"), Put::Stored { bytes: body.len() as u64 });
    assert!(store.has(id).expect("has answers"));
    assert_eq!(store.put(id, &file).expect("second put"), Put::AlreadyThere, "the same body is stored once");
    store.get(id, &to).expect("get");
    assert_eq!(fs::read(&to).expect("read back"), body);
    fs::remove_file(&to).expect("remove");

    assert!(matches!(store.put(absent, &file), Err(BlobError::Damaged { .. })), "a wrong name is refused");
    assert!(!store.has(absent).expect("has answers"), "nothing was stored under the wrong name");

    let empty = BlobId(*blake3::hash(b"").as_bytes());
    let nothing = scratch.join("empty");
    fs::write(&nothing, b"").expect("scratch file");
    store.put(empty, &nothing).expect("an empty body is a body");
    store.get(empty, &to).expect("get the empty body");
    assert_eq!(fs::read(&to).expect("read back"), b"");
    fs::remove_file(&to).expect("remove");

    let mut damaged = body.clone();
    damaged[100] ^= 1;
    tamper(id, Some(&damaged));
    assert!(matches!(store.get(id, &to), Err(BlobError::Damaged { .. })), "one flipped bit is noticed");
    assert!(!to.exists(), "a damaged body is never handed on");
    assert!(matches!(store.put(id, &file), Ok(Put::Stored { .. })), "it is replaced by the body that is stored again");
    store.get(id, &to).expect("whole again");
    fs::remove_file(&to).expect("remove");
    tamper(id, Some(&damaged));
    assert!(store.get(id, &to).is_err());
    tamper(id, Some(&body[..body.len() / 2]));
    assert!(store.get(id, &to).is_err(), "half a body is noticed");
    tamper(id, None);
    assert!(matches!(store.get(id, &to), Err(BlobError::Missing(_))));
    store.put(id, &file).expect("it can be stored again");
    store.get(id, &to).expect("and read again");
    fs::remove_file(&to).expect("remove");
}
