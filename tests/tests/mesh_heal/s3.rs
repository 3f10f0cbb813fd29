//! Central storage in S3: two nodes on a real server, which goes away for a while.

use super::{configure, deliver, equal, mesh, message, named, wait_for};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use understudy_tests::agent;

fn program() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&paths).chain(home);
    folders.find_map(|folder| Some(folder.join("s3s-fs")).filter(|program| program.exists()))
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    fn start(program: &Path, host: &str, port: u16, data: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(["--host", host, "--port", &port.to_string(), "--access-key", "key", "--secret-key", "secret"]);
        command.arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the S3 server starts");
        wait_for("the S3 server", || TcpStream::connect((host, port)).map(drop).map_err(|e| e.to_string()));
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn bodies_in_s3_are_replicated_and_wait_for_a_server_that_is_away() {
    let name = "bodies_in_s3_are_replicated_and_wait_for_a_server_that_is_away";
    let Some(program) = program() else {
        println!("SKIPPED {name}: no S3 server; `cargo xtask bootstrap` installs it");
        return;
    };
    let Some(mesh) = mesh(name, 2, &["--level", "local"]) else { return };
    let state = mesh.state().clone();
    let data = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(data.path().join("bodies")).expect("a bucket");
    // The host's own address on the bridge that the nodes are on.
    let host = format!("{}.254", state.nodes[0].ip.rsplit_once('.').expect("an address").0);
    let port = TcpListener::bind((host.as_str(), 0)).and_then(|free| free.local_addr()).expect("a port").port();
    let server = Server::start(&program, &host, port, data.path());
    for at in ["node1", "node2"] {
        mesh.kill(at, "agent", "KILL").expect("kills");
        let blobs = format!(
            "kind = \"s3\"\nendpoint = \"http://{host}:{port}\"\nbucket = \"bodies\"\naccess_key = \"key\"\n\
             secret_key = \"secret\"\nallow_http = true\n"
        );
        configure(&state, at, |text| text.replace("kind = \"directory\"\n", &blobs));
    }
    ["node1", "node2"].iter().for_each(|at| mesh.start(at, "agent").expect("starts"));
    let account = named(&state, "u0001");
    deliver(&state, &account, &message("into a bucket"));
    equal(&state, &account);

    drop(server);
    deliver(&state, &account, &message("with no bucket there"));
    let socket = state.nodes[0].admin_socket.clone();
    wait_for("a body that waits", || {
        let status = agent::status(&socket).map_err(|e| e.to_string())?;
        if status["blobs"]["uploads_pending"].as_u64() > Some(0) { Ok(()) } else { Err(status["blobs"].to_string()) }
    });
    assert_eq!(state.read(&account, "node2").expect("reads").messages(), 1);
    let _server = Server::start(&program, &host, port, data.path());
    equal(&state, &account);
    assert_eq!(state.read(&account, "node2").expect("reads").messages(), 2);
    let in_folder = std::fs::read_dir(&state.blob_dir).map_or(0, Iterator::count);
    assert_eq!(in_folder, 0, "nothing went into the folder");
    mesh.down().expect("nothing is left behind");
}
