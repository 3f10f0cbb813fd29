//! Doing an event to a mesh, and undoing it.
//!
//! Owns: which `mesh` commands an event is. What can hurt: something that stays broken; [`heal_all`] at the end undoes
//! whatever there may be, and starts what does not run. Refuses: waiting for the mesh to be whole again.

use super::event::{Event, Kind};
use anyhow::{Context, Result};
use understudy_tests::mesh::Mesh;

/// Milliseconds that `delay` adds to every round trip, and percent of frames that it loses.
const DELAY: (u32, f64) = (150, 3.0);

fn node_name(node: usize) -> String {
    format!("node{node}")
}

/// Makes it wrong.
pub(super) fn hurt(mesh: &Mesh, event: &Event) -> Result<()> {
    let node = &node_name(event.node);
    match event.kind {
        Kind::KillAgent => mesh.kill(node, "agent", "KILL"),
        Kind::KillStore => mesh.kill(node, "store", "KILL"),
        Kind::KillMachine => mesh.kill(node, "machine", "KILL"),
        Kind::FreezeAgent => mesh.kill(node, "agent", "STOP"),
        Kind::FreezeStore => mesh.kill(node, "store", "STOP"),
        Kind::FreezeMachine => mesh.kill(node, "machine", "STOP"),
        Kind::Cut => mesh.partition(node, &[]),
        Kind::CutOne => mesh.partition(node, &["--from", &node_name(event.other)]),
        Kind::CutOut => mesh.partition(node, &["--one-way", "out"]),
        Kind::CutIn => mesh.partition(node, &["--one-way", "in"]),
        Kind::Delay => mesh.delay(node, DELAY.0, DELAY.1),
        Kind::DiskHang => mesh.fault(node, "hang"),
        Kind::DiskFull => mesh.fault(node, "full"),
        Kind::DiskReadonly => mesh.fault(node, "readonly"),
        Kind::DiskEio => mesh.fault(node, "eio"),
        service => hurt_service(mesh, service),
    }
}

/// Makes it well again.
pub(super) fn heal(mesh: &Mesh, event: &Event) -> Result<()> {
    let node = &node_name(event.node);
    match event.kind {
        Kind::KillAgent => mesh.start(node, "agent"),
        Kind::KillStore => mesh.start(node, "store"),
        Kind::KillMachine => mesh.start(node, "machine"),
        Kind::FreezeAgent => mesh.kill(node, "agent", "CONT"),
        Kind::FreezeStore => mesh.kill(node, "store", "CONT"),
        Kind::FreezeMachine => mesh.kill(node, "machine", "CONT"),
        Kind::Cut | Kind::CutOne | Kind::CutOut | Kind::CutIn => mesh.heal(),
        Kind::Delay => mesh.delay(node, 0, 0.0),
        Kind::DiskHang | Kind::DiskFull => mesh.mend(),
        Kind::DiskReadonly | Kind::DiskEio => {
            // Whoever has files of a file system that was given up goes on failing: its machine is started anew, as an
            // administrator would.
            let _ = mesh.kill(node, "machine", "KILL");
            mesh.mend()?;
            mesh.start(node, "machine")
        }
        service => heal_service(mesh, service),
    }
}

pub(super) fn hurt_service(mesh: &Mesh, service: Kind) -> Result<()> {
    match service {
        Kind::EtcdStop => mesh.kill_service("etcd", "KILL"),
        Kind::EtcdFreeze => mesh.kill_service("etcd", "STOP"),
        Kind::NginxKill => mesh.kill_service("nginx", "KILL"),
        Kind::PostfixKill => mesh.kill_service("postfix", "KILL"),
        _ => {
            let (blobs, away) = blobs(mesh);
            std::fs::rename(&blobs, &away).with_context(|| format!("cannot move `{}` away", blobs.display()))?;
            // A file in its place, so that nobody makes the folder anew.
            std::fs::write(&blobs, b"gone").with_context(|| format!("cannot write `{}`", blobs.display()))
        }
    }
}

pub(super) fn heal_service(mesh: &Mesh, service: Kind) -> Result<()> {
    match service {
        Kind::EtcdStop => mesh.start_service("etcd"),
        Kind::EtcdFreeze => mesh.kill_service("etcd", "CONT"),
        Kind::NginxKill => mesh.start_service("nginx"),
        Kind::PostfixKill => mesh.start_service("postfix"),
        _ => {
            let (blobs, away) = blobs(mesh);
            if away.exists() {
                std::fs::remove_file(&blobs)?;
                std::fs::rename(&away, &blobs).with_context(|| format!("cannot move `{}` back", blobs.display()))?;
            }
            Ok(())
        }
    }
}

fn blobs(mesh: &Mesh) -> (std::path::PathBuf, std::path::PathBuf) {
    let blobs = mesh.state().blob_dir.clone();
    let away = blobs.with_extension("away");
    (blobs, away)
}

/// Undoes everything, whatever was done, and starts what does not run. What was never wrong says so by an error.
pub(super) fn heal_all(mesh: &Mesh, disks: bool) {
    let _ = mesh.heal();
    if disks {
        let _ = mesh.mend();
    }
    let _ = heal_service(mesh, Kind::BlobsGone);
    for service in ["etcd", "nginx", "haproxy", "postfix"] {
        let _ = mesh.kill_service(service, "CONT");
        let _ = mesh.start_service(service);
    }
    for node in &mesh.state().nodes {
        let _ = mesh.delay(&node.name, 0, 0.0);
        let _ = mesh.kill(&node.name, "machine", "CONT");
        let _ = mesh.start(&node.name, "machine");
    }
}
