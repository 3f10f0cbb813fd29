//! Certificates as files, and the TLS settings made of them.
//!
//! Owns: TLS 1.3 only, both sides show a certificate of the cluster's authority, no resumption (a resumed session
//! would outlive the certificate that began it). What can hurt: a key that everybody can read, a file that is half
//! written; both are refused, and on a reload the old settings stay in use. Refuses: trusting any other authority.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use understudy_types::id::{ClusterId, NodeId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::limits::PEM_BYTES_MAX;

/// Application protocol named in TLS, so that another service on the port is told apart.
const ALPN: &[u8] = b"understudy/1";
/// Certificates in one chain. More are refused.
const CHAIN_MAX: usize = 8;

/// Files that hold what an agent shows and trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPaths {
    /// Certificate of the cluster's authority.
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whom a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}` of cluster `{}`", self.node, self.cluster)
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read `{path}`: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("`{path}` is larger than {PEM_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error(
        "key `{path}` can be read by everybody; run `chmod o= {path}` and make a new one with `understudy cert node`"
    )]
    KeyOpen { path: PathBuf },
    #[error("`{path}` holds no PEM that can be used: {error}")]
    Pem { path: PathBuf, error: String },
    #[error("certificate `{path}` names no node of a cluster; make one with `understudy cert node`")]
    NoIdentity { path: PathBuf },
    #[error("certificate `{certificate}` and key `{key}` cannot be used: {error}")]
    Pair { certificate: PathBuf, key: PathBuf, error: rustls::Error },
    #[error("authority `{path}` cannot be used: {error}")]
    Authority { path: PathBuf, error: String },
}

/// Settings for both directions, made of one reading of the files.
pub(super) struct TlsMaterial {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) identity: Identity,
    stamps: [Stamp; 3],
}

/// What tells that a file is not the one that was read.
type Stamp = Option<(u64, u64, i64, i64)>;

impl TlsMaterial {
    pub(super) fn load(paths: &TlsPaths) -> Result<Self, TlsError> {
        // Before reading: a file that changes meanwhile then counts as changed at the next look.
        let stamps = stamps(paths);
        let authority = read_limited(&paths.authority)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority, &paths.authority)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Authority { path: paths.authority.clone(), error: error.to_string() })?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&read_limited(&paths.certificate)?, &paths.certificate)?;
        let no_identity = || TlsError::NoIdentity { path: paths.certificate.clone() };
        let identity = identity_of(chain.first().ok_or_else(no_identity)?).ok_or_else(no_identity)?;
        let mode =
            std::fs::metadata(&paths.key).map_err(|error| TlsError::Read { path: paths.key.clone(), error })?.mode();
        if mode & 0o007 != 0 {
            return Err(TlsError::KeyOpen { path: paths.key.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&read_limited(&paths.key)?)
            .map_err(|error| TlsError::Pem { path: paths.key.clone(), error: error.to_string() })?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let pair = |error| TlsError::Pair { certificate: paths.certificate.clone(), key: paths.key.clone(), error };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::Authority { path: paths.authority.clone(), error: error.to_string() })?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { client: Arc::new(client), server: Arc::new(server), identity, stamps })
    }

    /// Whether the files are no longer those that were read.
    pub(super) fn changed(&self, paths: &TlsPaths) -> bool {
        stamps(paths) != self.stamps
    }
}

fn stamps(paths: &TlsPaths) -> [Stamp; 3] {
    [&paths.authority, &paths.certificate, &paths.key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    })
}

fn read_limited(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |error: String| TlsError::Pem { path: path.to_owned(), error };
    let chain = CertificateDer::pem_slice_iter(pem)
        .take(CHAIN_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad(e.to_string()))?;
    match chain.len() {
        0 => Err(bad("no certificate in it".to_owned())),
        1..=CHAIN_MAX => Ok(chain),
        _ => Err(bad(format!("more than {CHAIN_MAX} certificates in it"))),
    }
}

/// Cluster and node that a certificate names by its URI. `None` if it names none, or more than one.
#[must_use]
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut found = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => identity_from_uri(uri),
        _ => None,
    });
    let identity = found.next()?;
    found.next().is_none().then_some(identity)
}

fn identity_from_uri(uri: &str) -> Option<Identity> {
    let (cluster, node) = uri.strip_prefix("understudy://")?.split_once("/node/")?;
    let identity = Identity { cluster: ClusterId(cluster.parse().ok()?), node: NodeId::new(node.parse().ok()?)? };
    // Only the one way to write it: `+1` and `01` parse, too.
    (super::certificate::node_uri(identity.cluster, identity.node) == uri).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_uri_names_a_node() {
        let identity = identity_from_uri("understudy://7/node/3");
        assert_eq!(identity.map(|i| (i.cluster.0, i.node.get())), Some((7, 3)));
        for bad in [
            "understudy://7/node/0",
            "understudy://7/node/03",
            "understudy://+7/node/3",
            "understudy://7/node/3/",
            "https://7/node/3",
            "understudy://7/node/9999",
            "understudy:///node/1",
        ] {
            assert!(identity_from_uri(bad).is_none(), "{bad}");
        }
    }
}
