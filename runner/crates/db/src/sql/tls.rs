//! TLS for database servers with the modes of libpq's `sslmode`: rustls with ring.
//!
//! Invariant: `verify-ca` and `verify-full` require a certificate of a known authority. Deliberately absent: client
//! certificates.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::SqlSessionError;
use contract::step::FailureKind;
use plan::{ServerTlsMode, ServerUrl};

/// A byte stream to a server.
pub(super) enum ServerStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Reads the authorities in the URL's file, or the system's, as DER.
pub(super) fn load_root_certs(named: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, SqlSessionError> {
    let Some(path) = named else { return Ok(rustls_native_certs::load_native_certs().certs) };
    let bad = |why: &dyn std::fmt::Display| {
        SqlSessionError::new(FailureKind::InvalidConfig, format!("can't use the CA file {}: {why}", path.display()))
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| bad(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| bad(&error))?;
    if found.is_empty() { Err(bad(&"it contains no certificate")) } else { Ok(found) }
}

/// Whether the server must present a certificate of a known authority.
pub(super) fn verifies_certificate(url: &ServerUrl) -> bool {
    match url.tls {
        ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull => true,
        ServerTlsMode::Require => url.ca_file.is_some(),
        ServerTlsMode::Disable | ServerTlsMode::Prefer => false,
    }
}

/// Turns a byte stream into a TLS stream.
pub(super) struct PostgresTlsConnector {
    config: Arc<ClientConfig>,
    host: String,
}

impl PostgresTlsConnector {
    /// Builds the connector for a URL; reads authorities only if needed.
    pub(super) fn new(url: &ServerUrl, host: &str) -> Result<Self, SqlSessionError> {
        let provider = Arc::new(ring::default_provider());
        let roots = if verifies_certificate(url) { load_root_certs(url.ca_file.as_deref())? } else { Vec::new() };
        let cert_verifier = SslModeVerifier::new(url, roots, Arc::clone(&provider))?;
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .map_err(|error| SqlSessionError::new(FailureKind::Permanent, format!("TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(cert_verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self { config: Arc::new(config), host: host.to_owned() })
    }
}

/// A certificate verifier for the modes of `sslmode`.
#[derive(Debug)]
struct SslModeVerifier {
    provider: Arc<CryptoProvider>,
    /// `None` accepts every certificate.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
}

impl SslModeVerifier {
    fn new(
        url: &ServerUrl,
        certificates: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, SqlSessionError> {
        let inner = if verifies_certificate(url) {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates);
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
            Some(built.map_err(|error| SqlSessionError::new(FailureKind::Permanent, format!("TLS: {error}")))?)
        } else {
            None
        };
        Ok(Self { provider, verifier: inner, checks_name: url.tls == ServerTlsMode::VerifyFull })
    }
}

impl ServerCertVerifier for SslModeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.verifier else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The chain is verified before the name.
            Err(Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName | rustls::CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS stream.
pub(super) struct PostgresTlsStream(tokio_rustls::client::TlsStream<ServerStream>);

impl TlsConnect<ServerStream> for PostgresTlsConnector {
    type Stream = PostgresTlsStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<PostgresTlsStream>> + Send>>;

    fn connect(self, stream: ServerStream) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            Ok(PostgresTlsStream(tokio_rustls::TlsConnector::from(self.config).connect(name, stream).await?))
        })
    }
}

impl TlsStream for PostgresTlsStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for PostgresTlsStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PostgresTlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(context)
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
