//! The S3 side against a real server, which is stopped and started in between.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::blob::conformance;
use crate::blob::spool::Spool;
use crate::blob::upload::{UploadEvent, Uploader};

const BUCKET: &str = "mail-bodies";

/// The program, as `cargo xtask bootstrap` installs it.
fn program() -> Option<PathBuf> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let installed = [cargo_home, home].into_iter().flatten().map(|dir| dir.join("bin"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&paths).chain(installed);
    folders.find_map(|folder| Some(folder.join("s3s-fs")).filter(|program| program.exists()))
}

/// A server on a port of its own; its data outlives it.
struct Server {
    program: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// `None` with the line that says why not.
    fn start(test: &str) -> Option<Self> {
        let Some(program) = program() else {
            println!("SKIPPED {test}: no S3 server; `cargo xtask bootstrap` installs it");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { program, dir, port, child: None };
        server.begin();
        Some(server)
    }

    fn begin(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        command.args(["--host", "127.0.0.1", "--port", &port, "--access-key", "key", "--secret-key", "secret"]);
        command.arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the S3 server does not answer");
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn client(&self, prefix: &str) -> S3 {
        S3::open(&S3Config {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            bucket: BUCKET.into(),
            region: "us-east-1".into(),
            access_key: "key".into(),
            secret_key: "secret".into(),
            allow_http: true,
            prefix: prefix.into(),
        })
        .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn s3_passes_the_conformance_suite() {
    let Some(server) = Server::start("s3_passes_the_conformance_suite") else { return };
    for prefix in ["", "understudy/bodies"] {
        let scratch = tempfile::tempdir().unwrap();
        let root = server.dir.path().join(BUCKET).join(prefix);
        conformance::run(&server.client(prefix), scratch.path(), &mut |id, content| {
            let path = root.join(relative_path(id));
            match content {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        });
    }
}

#[test]
fn a_server_that_is_away_is_an_error_that_passes() {
    let Some(mut server) = Server::start("a_server_that_is_away_is_an_error_that_passes") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("spool");
    fs::create_dir(&root).unwrap();
    let spool = Spool::new(&root);
    let store: Arc<dyn BlobStore> = Arc::new(server.client(""));
    let (send, events) = crossbeam::channel::unbounded();
    let uploader = Uploader::start(&spool, &store, move |event| send.send(event).unwrap()).unwrap();
    let next = || match events.recv_timeout(Duration::from_secs(120)).expect("an uploader answers") {
        UploadEvent::Durable { id, stored_bytes, .. } => UploadEvent::Durable { id, stored_bytes, took_ns: 0 },
        other => other,
    };
    let put = |text: &[u8]| {
        let id = BlobId(*blake3::hash(text).as_bytes());
        fs::write(spool.path(id), text).unwrap();
        uploader.want(id);
        id
    };
    let first = put(b"before");
    assert_eq!(next(), UploadEvent::Durable { id: first, stored_bytes: 6, took_ns: 0 });

    server.stop();
    let second = put(b"meanwhile");
    for _ in 0..2 {
        assert!(matches!(next(), UploadEvent::Failing { id, .. } if id == second));
    }
    // Not to be reached is not missing: nobody may conclude that the body is lost.
    let to = scratch.path().join("out");
    assert!(matches!(store.get(first, &to), Err(BlobError::Remote { .. })));
    assert!(matches!(store.has(second), Err(BlobError::Remote { .. })));
    assert!(spool.path(second).exists() && !to.exists());

    server.begin();
    let durable = std::iter::repeat_with(next).find(|event| !matches!(event, UploadEvent::Failing { .. }));
    assert_eq!(durable, Some(UploadEvent::Durable { id: second, stored_bytes: 9, took_ns: 0 }));
    assert!(spool.list().unwrap().is_empty());
    for (id, text) in [(first, &b"before"[..]), (second, b"meanwhile")] {
        store.get(id, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), text);
        fs::remove_file(&to).unwrap();
    }
}
