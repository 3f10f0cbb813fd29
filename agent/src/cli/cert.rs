//! `understudy cert`: makes the cluster's authority and the nodes' certificates, and shows what one says.
//!
//! Owns: the files: names, modes, and that nothing is overwritten unasked. What can hurt: a key that others can read,
//! a half-written file; keys are made with mode 0600 from the first byte, and every file is renamed into place.
//! Refuses: what stands in a certificate; that is the transport's (`transport::certificate`).

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use understudy_types::id::{ClusterId, NodeId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Context, Exit, Failure, output};
use crate::clock;
use crate::config::Cluster;
use crate::limits::PEM_BYTES_MAX;
use crate::transport::certificate::{CertifiedPem, NodeCertificate, issue_authority, issue_node};
use crate::transport::identity_of;

const AUTHORITY_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca.key";
/// Mode of a key: nobody but its owner.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const DAY_S: u64 = 86_400;

/// Flags of `cert`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the cluster's authority: ca.pem and ca.key. Keep ca.key off the nodes
    Ca {
        /// Directory to write to; made if missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name of the authority, for people
        #[arg(long, value_name = "NAME", default_value = "understudy authority")]
        name: String,
        /// Days that it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u64).range(1..=36500))]
        days: u64,
        /// Overwrite files that are there
        #[arg(long)]
        force: bool,
    },
    /// Make a node's certificate: NAME.pem, NAME.key and a copy of ca.pem
    Node {
        /// Directory that holds ca.pem and ca.key
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The node's number, `node.id` of its configuration
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NodeId::MAX)))]
        node: u16,
        /// The node's name, `node.name` of its configuration
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Address of the node; may be repeated
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        /// The cluster, `node.cluster` of the configuration: a number or a text
        #[arg(long, value_name = "CLUSTER")]
        cluster: String,
        /// Directory to write to; made if missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name of the files before `.pem` and `.key` [default: NAME]
        #[arg(long, value_name = "STEM")]
        file: Option<String>,
        /// Days that it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u64).range(1..=36500))]
        days: u64,
        /// Overwrite files that are there
        #[arg(long)]
        force: bool,
    },
    /// Show what a certificate says; exit code 3 if it is not valid now
    Show {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
///
/// Files that are there already, cannot be read or written, or hold no certificate.
pub fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::Ca { out, name, days, force } => {
            let made = issue_authority(name, days_of(*days), clock::wall_ns()).map_err(other)?;
            let files = [
                (out.join(AUTHORITY_FILE), made.certificate, CERTIFICATE_MODE),
                (out.join(AUTHORITY_KEY_FILE), made.key, KEY_MODE),
            ];
            write(context, out, &files, *force)
        }
        Command::Node { ca, node, name, address, cluster, out, file, days, force } => {
            let stem = file.as_deref().unwrap_or(name);
            if stem.is_empty() || stem.starts_with('.') || stem.contains('/') || stem.chars().any(char::is_control) {
                return Err(Failure::Usage(format!("`{stem}` cannot be the name of a file; choose one with `--file`")));
            }
            let authority =
                CertifiedPem { certificate: read(&ca.join(AUTHORITY_FILE))?, key: read(&ca.join(AUTHORITY_KEY_FILE))? };
            let node = NodeId::new(*node).ok_or_else(|| Failure::Usage(format!("`{node}` is no node number")))?;
            let what = NodeCertificate {
                cluster: cluster_of(cluster),
                node,
                name: name.clone(),
                addresses: address.clone(),
                valid: days_of(*days),
            };
            let made = issue_node(&authority, &what, clock::wall_ns()).map_err(other)?;
            let mut files = vec![
                (out.join(format!("{stem}.pem")), made.certificate, CERTIFICATE_MODE),
                (out.join(format!("{stem}.key")), made.key, KEY_MODE),
            ];
            // The same authority beside several nodes' files is no overwriting.
            let copy = out.join(AUTHORITY_FILE);
            if read(&copy).ok().as_ref() != Some(&authority.certificate) {
                files.push((copy, authority.certificate, CERTIFICATE_MODE));
            }
            write(context, out, &files, *force)
        }
        Command::Show { file } => show(context, file),
    }
}

fn other(error: impl std::fmt::Display) -> Failure {
    Failure::Other(error.to_string())
}

fn days_of(days: u64) -> Duration {
    Duration::from_secs(days * DAY_S)
}

/// As in the configuration: a number stands for itself, a text for its hash.
fn cluster_of(text: &str) -> ClusterId {
    text.parse().map_or_else(|_| Cluster::Text(text.to_owned()), Cluster::Number).id()
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Other(format!("cannot read `{}`: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PEM_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(Failure::Other(format!("`{}` is larger than {PEM_BYTES_MAX} bytes", path.display())));
    }
    Ok(text)
}

fn write(context: &Context, directory: &Path, files: &[(PathBuf, String, u32)], force: bool) -> Result<Exit, Failure> {
    // Before the first is written: half a set of files is worse than none.
    if let Some((path, ..)) = files.iter().find(|(path, ..)| !force && path.symlink_metadata().is_ok()) {
        return Err(Failure::Usage(format!("`{}` is there already; `--force` overwrites it", path.display())));
    }
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::Other(format!("cannot make `{}`: {error}", directory.display())))?;
    for (path, text, mode) in files {
        write_one(path, text, *mode)
            .map_err(|error| Failure::Other(format!("cannot write `{}`: {error}", path.display())))?;
    }
    let written: Vec<_> = files.iter().map(|(path, ..)| path.display().to_string()).collect();
    if context.global.json {
        context.print_json(&json!({ "written": written }))?;
    } else {
        output::text(&written.iter().map(|path| format!("wrote {path}\n")).collect::<String>())?;
    }
    Ok(Exit::Fine)
}

/// The file has its mode before it has its content, and its name only when it is whole.
fn write_one(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new{}", std::process::id()));
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    let done =
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, path));
    if done.is_err() {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    done
}

fn show(context: &Context, file: &Path) -> Result<Exit, Failure> {
    let bad = |what: &str| Failure::Other(format!("`{}` {what}", file.display()));
    let pem = read(file)?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad("holds no certificate"))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|_| bad("holds a certificate that cannot be read"))?;
    let identity = identity_of(&der);
    let names: Vec<String> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| names.value.general_names.iter().map(name_text).collect())
        .unwrap_or_default();
    let (from_s, until_s) =
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let now_s = i64::try_from(clock::wall_ns() / 1_000_000_000).unwrap_or(i64::MAX);
    let valid = (from_s..=until_s).contains(&now_s);
    if context.global.json {
        context.print_json(&json!({
            "file": file,
            "subject": certificate.subject().to_string(),
            "issuer": certificate.issuer().to_string(),
            "authority": certificate.is_ca(),
            "cluster": identity.map(|identity| identity.cluster.0),
            "node": identity.map(|identity| identity.node.get()),
            "names": names,
            "valid_from_s": from_s,
            "valid_until_s": until_s,
            "valid_now": valid,
        }))?;
    } else {
        let line = |what: &str, value: String| format!("{what:<12}{value}\n");
        let mut text = line("subject", certificate.subject().to_string());
        text += &line("issuer", certificate.issuer().to_string());
        text += &line(
            "is for",
            match identity {
                Some(identity) => identity.to_string(),
                None if certificate.is_ca() => "an authority".to_owned(),
                None => "no node: agents refuse it".to_owned(),
            },
        );
        for name in &names {
            text += &line("name", name.clone());
        }
        text += &line("from", certificate.validity().not_before.to_string());
        text += &line("until", certificate.validity().not_after.to_string());
        text += &line("now", if valid { "valid".to_owned() } else { "NOT valid".to_owned() });
        output::text(&text)?;
    }
    Ok(if valid { Exit::Fine } else { Exit::Bad })
}

fn name_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS {name}"),
        GeneralName::URI(uri) => format!("URI {uri}"),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => format!("IP {}", IpAddr::from(v4)),
            (_, Ok(v6)) => format!("IP {}", IpAddr::from(v6)),
            _ => "IP of unknown kind".to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::{Args as _, FromArgMatches};

    use super::*;
    use crate::cli::Global;

    fn cert(words: &[&str]) -> Result<Exit, Failure> {
        let matches =
            Args::augment_args(clap::Command::new("cert")).try_get_matches_from(std::iter::once(&"cert").chain(words));
        let args = matches
            .and_then(|matches| Args::from_arg_matches(&matches))
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let global = Global { config: None, set: Vec::new(), admin_socket: None, json: true };
        run(&Context { global }, &args)
    }

    #[test]
    fn what_is_made_names_the_node_is_private_and_is_not_overwritten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (ca, out) = (path("ca"), path("out"));
        assert_eq!(cert(&["ca", "--out", &ca]).ok(), Some(Exit::Fine));
        let node = [
            "node",
            "--ca",
            &ca,
            "--node",
            "3",
            "--name",
            "mail3",
            "--address",
            "192.0.2.3",
            "--cluster",
            "staging",
            "--out",
            &out,
        ];
        assert_eq!(cert(&node).ok(), Some(Exit::Fine));
        for (file, mode) in [
            ("ca/ca.key", 0o600),
            ("ca/ca.pem", 0o644),
            ("out/mail3.key", 0o600),
            ("out/mail3.pem", 0o644),
            ("out/ca.pem", 0o644),
        ] {
            let meta = std::fs::metadata(path(file)).expect(file);
            assert_eq!(meta.permissions().mode() & 0o777 & !0o022, mode & !0o022, "{file}");
        }
        let der = CertificateDer::from_pem_slice(read(Path::new(&path("out/mail3.pem"))).expect("a file").as_bytes())
            .expect("PEM");
        let identity = identity_of(&der).expect("a node's certificate");
        assert_eq!((identity.node.get(), identity.cluster), (3, Cluster::Text("staging".to_owned()).id()));
        assert_eq!(cluster_of("77"), ClusterId(77));

        let before = read(Path::new(&path("out/mail3.key"))).expect("a file");
        assert!(matches!(cert(&node), Err(Failure::Usage(_))), "nothing is overwritten unasked");
        assert_eq!(read(Path::new(&path("out/mail3.key"))).expect("a file"), before);
        assert_eq!(cert(&[&node[..], &["--force"]].concat()).ok(), Some(Exit::Fine));
        assert_ne!(read(Path::new(&path("out/mail3.key"))).expect("a file"), before);
        assert_eq!(cert(&["show", &path("out/mail3.pem")]).ok(), Some(Exit::Fine));
        assert!(cert(&["show", &path("out/mail3.key")]).is_err(), "a key is no certificate");
        assert!(matches!(
            cert(&["node", "--ca", &ca, "--node", "0", "--name", "x", "--cluster", "1", "--out", &out]),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            cert(&["node", "--ca", &ca, "--node", "4", "--name", "../x", "--cluster", "1", "--out", &out]),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn one_that_has_expired_is_a_bad_answer() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("old.pem");
        let made =
            issue_authority("old", days_of(1), clock::wall_ns() - 3 * DAY_S * 1_000_000_000).expect("an authority");
        write_one(&file, &made.certificate, CERTIFICATE_MODE).expect("a file");
        assert_eq!(cert(&["show", &file.display().to_string()]).ok(), Some(Exit::Bad));
    }
}
