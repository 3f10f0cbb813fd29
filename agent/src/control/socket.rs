//! The admin socket's file: made with its permissions before anybody can connect, one owner at a time.
//!
//! Owns: replacing what a dead agent left behind. What can hurt: two agents on one socket; the second is refused.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Permission bits: the agent's user and group.
const MODE: u32 = 0o660;

/// Listens on `path`.
///
/// # Errors
///
/// `AddrInUse` when somebody answers there; else what the system says.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another agent answers on `{}`", path.display())));
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // Bound under another name and then renamed: no moment at which the socket is there with the wrong mode, and
    // a file that a killed agent left is replaced in one step.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = Path::new(&name);
    match std::fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(fresh)?;
    let ready = std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(MODE))
        .and_then(|()| std::fs::rename(fresh, path));
    if let Err(error) = ready {
        let _ = std::fs::remove_file(fresh);
        return Err(error);
    }
    Ok(listener)
}
