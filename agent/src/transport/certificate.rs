//! Makes the certificates that agents know each other by.
//!
//! Owns: what stands in them. A node's certificate names cluster and node twice: as a URI, which the other side reads,
//! and as a DNS name, which TLS itself checks when a node is dialled. What can hurt: a key that leaks; keys are given
//! back as text and never written here. Refuses: files, clocks (`now` is an argument).

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use understudy_types::id::{ClusterId, NodeId};

/// Certificates begin to be valid this long before they are made: clocks of nodes differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct CertifiedPem {
    pub certificate: String,
    pub key: String,
}

/// What a node's certificate says.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// For people: the common name.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub valid: Duration,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("time `{0}` is out of range for a certificate")]
    Time(u64),
}

/// The URI by which a certificate names a node.
#[must_use]
pub fn node_uri(cluster: ClusterId, node: NodeId) -> String {
    format!("understudy://{cluster}/node/{node}")
}

/// The DNS name under which a node is dialled. Never looked up anywhere.
#[must_use]
pub fn node_dns_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node{node}.cluster{cluster}.understudy.internal")
}

/// Makes a cluster's authority. Whoever holds its key can be any node: it belongs on no node.
///
/// # Errors
/// See [`CertificateError`].
pub fn issue_authority(name: &str, valid: Duration, now_wall_ns: u64) -> Result<CertifiedPem, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = params(name, valid, now_wall_ns)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(CertifiedPem { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Makes a node's certificate, signed by the authority.
///
/// # Errors
/// See [`CertificateError`].
pub fn issue_node(
    authority: &CertifiedPem,
    node: &NodeCertificate,
    now_wall_ns: u64,
) -> Result<CertifiedPem, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = params(&node.name, node.valid, now_wall_ns)?;
    params.subject_alt_names = vec![
        SanType::URI(node_uri(node.cluster, node.node).try_into()?),
        SanType::DnsName(node_dns_name(node.cluster, node.node).try_into()?),
    ];
    params.subject_alt_names.extend(node.addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(CertifiedPem { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn params(common_name: &str, valid: Duration, now_wall_ns: u64) -> Result<CertificateParams, CertificateError> {
    let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now_wall_ns))
        .map_err(|_| CertificateError::Time(now_wall_ns))?;
    let mut params = CertificateParams::default();
    params.not_before = now.checked_sub(BACKDATED.try_into().unwrap_or(time::Duration::HOUR)).unwrap_or(now);
    let valid = time::Duration::try_from(valid).map_err(|_| CertificateError::Time(now_wall_ns))?;
    params.not_after = now.checked_add(valid).ok_or(CertificateError::Time(now_wall_ns))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}
