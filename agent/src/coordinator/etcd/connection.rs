//! One connection to one member of etcd: TCP, TLS where asked for, HTTP/2, and single calls of gRPC on it.
//!
//! Owns: connecting, and telling whether a request that failed had gone out. That is why the connection is made here
//! and not by a client library that connects by itself when it is used: only so is "not sent" known. What can hurt: a
//! member that is frozen accepts connections and takes requests, and answers neither. Every wait has its end with the
//! caller. Refuses: connecting again; a connection that broke stays broken, and its owner makes another.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};
use hyper::http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use crate::limits::{ETCD_MESSAGE_BYTES_MAX, PEM_BYTES_MAX};

/// Where a member answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    pub(super) authority: Authority,
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("endpoint `{url}` is not a URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("endpoint `{url}` begins with neither `http://` nor `https://`")),
        };
        let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        match (uri.authority(), uri.host(), uri.port_u16()) {
            (Some(authority), Some(host), port) if bare && !authority.as_str().contains('@') => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Self { tls, authority: authority.clone(), host, port: port.unwrap_or(2379) })
            }
            _ => Err(format!("endpoint `{url}` is not of the form `https://HOST:PORT`")),
        }
    }
}

/// Files of certificates. They are read at each connection, so that new ones are taken without a restart.
#[derive(Clone, Debug, Default)]
pub(super) struct TlsFiles {
    pub(super) authority: Option<PathBuf>,
    pub(super) pair: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Settings for a client. Small files; read in place.
    pub(super) fn load(&self) -> Result<Arc<ClientConfig>, String> {
        let Some(authority) = &self.authority else {
            return Err("`coordinator.ca` is not set, and there is an `https` endpoint".to_owned());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority)? {
            roots.add(certificate).map_err(|error| format!("cannot use `{}`: {error}", authority.display()))?;
        }
        if roots.is_empty() {
            return Err(format!("`{}` holds no certificate", authority.display()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let bytes = super::read_small(key, PEM_BYTES_MAX)?;
                let shown = key.display();
                let key = PrivateKeyDer::from_pem_slice(&bytes);
                let key = key.map_err(|error| format!("cannot use the key in `{shown}`: {error}"))?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| format!("cannot use `{}` and `{shown}`: {error}", certificate.display()))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = super::read_small(path, PEM_BYTES_MAX)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    all.map_err(|error| format!("cannot use `{}`: {error}", path.display()))
}

/// A request that did not go out. Found again in the sources of a [`Status`].
#[derive(Debug, thiserror::Error)]
#[error("not sent: {0}")]
pub(super) struct NotSent(String);

/// Whether the request that ended so was never sent.
pub(super) fn not_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<NotSent>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Cheap to clone; all clones are the same connection.
#[derive(Clone)]
pub(super) struct Connection {
    sender: http2::SendRequest<Body>,
    origin: Uri,
    /// Its sender is gone when the connection is.
    alive: watch::Receiver<()>,
}

impl Connection {
    /// Connects. The caller bounds the time.
    pub(super) async fn open(endpoint: &Endpoint, tls: &TlsFiles) -> Result<Self, String> {
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await;
        let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        if !endpoint.tls {
            return Self::over(stream, endpoint, Scheme::HTTP).await;
        }
        let name = ServerName::try_from(endpoint.host.clone());
        let name = name.map_err(|error| format!("`{}` is no name for TLS: {error}", endpoint.host))?;
        let connector = tokio_rustls::TlsConnector::from(tls.load()?);
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS failed: {error}"))?;
        Self::over(stream, endpoint, Scheme::HTTPS).await
    }

    async fn over<S>(stream: S, endpoint: &Endpoint, scheme: Scheme) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let origin = Uri::builder().scheme(scheme).authority(endpoint.authority.clone()).path_and_query("/").build();
        let origin = origin.map_err(|error| error.to_string())?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| format!("HTTP/2 failed: {error}"))?;
        let (lives, alive) = watch::channel(());
        tokio::spawn(async move {
            let _lives = lives;
            // Ends when the peer closes, or when the last clone and the last stream are gone.
            let _ = connection.await;
        });
        Ok(Self { sender, origin, alive })
    }

    /// Returns when the connection is gone.
    pub(super) async fn closed(&mut self) {
        while self.alive.changed().await.is_ok() {}
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.alive.has_changed().is_err()
    }

    fn grpc(&self) -> Grpc<Self> {
        Grpc::with_origin(self.clone(), self.origin.clone()).max_decoding_message_size(ETCD_MESSAGE_BYTES_MAX)
    }

    /// One request, one answer; also of calls that could answer more than once.
    pub(super) async fn call<Q, A>(&self, path: &'static str, ask: Q, token: Option<&Token>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = tonic::Request::new(ask);
        head(&mut request, token);
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.grpc().server_streaming(request, PathAndQuery::from_static(path), codec).await?;
        let mut answer = answer.into_inner();
        answer.message().await?.ok_or_else(|| Status::unknown("an answer without a message"))
    }

    /// Requests as they come, answers as they come.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        asks: impl tokio_stream::Stream<Item = Q> + Send + 'static,
        token: Option<&Token>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = tonic::Request::new(asks);
        head(&mut request, token);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc().streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

/// What etcd gave for user and password.
pub(super) type Token = MetadataValue<Ascii>;

fn head<T>(request: &mut tonic::Request<T>, token: Option<&Token>) {
    // A member that has lost its leader says so, and does not wait for one.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
}

impl GrpcService<Body> for Connection {
    type ResponseBody = Incoming;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut sender = self.sender.clone();
        Box::pin(async move {
            if let Err(error) = sender.ready().await {
                return Err(NotSent(error.to_string()).into());
            }
            sender.try_send_request(request).await.map_err(|mut failed| {
                if failed.take_message().is_some() {
                    NotSent(failed.error().to_string()).into()
                } else {
                    failed.into_error().into()
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_etcd_writes_them() {
        let parsed = |url: &str| Endpoint::parse(url).map(|e| (e.tls, e.host, e.port));
        assert_eq!(parsed("http://127.0.0.1:2379"), Ok((false, "127.0.0.1".to_owned(), 2379)));
        assert_eq!(parsed("https://[2001:db8::1]:1/"), Ok((true, "2001:db8::1".to_owned(), 1)));
        assert_eq!(parsed("https://etcd.example.test"), Ok((true, "etcd.example.test".to_owned(), 2379)));
        for bad in ["127.0.0.1:2379", "ftp://a:1", "http://", "http://a:1/path", "http://u@a:1", "http://a:1/?x", ""] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
