//! TLS where we ask others: the system's roots, or nobody's.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, sync::OnceCell, task::spawn_blocking};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Trust;

/// Shakes hands with `host`; `protocol` is what we speak behind that (RFC 7301), if it has a name.
///
/// # Errors
/// Whatever went wrong, as rustls tells it.
pub(crate) async fn connect(
    stream: TcpStream,
    host: &str,
    trust: Trust,
    protocol: Option<&[u8]>,
) -> io::Result<TlsStream<TcpStream>> {
    let config = match trust {
        Trust::System => system().await?,
        Trust::Anybody => anybody().await?,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let protocols = protocol.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(config).with_alpn(protocols).connect(name, stream).await
}

/// Trusts whom the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` say otherwise. Read once, when
/// it is needed first.
async fn system() -> io::Result<Arc<ClientConfig>> {
    static SYSTEM: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();
    let read = || async {
        let roots = spawn_blocking(roots).await?;
        made(|builder| builder.with_root_certificates(roots).with_no_client_auth())
    };
    SYSTEM.get_or_try_init(read).await.cloned()
}

fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "root certificates");
    }
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(unusable, "no root certificates: nobody is trusted");
    }
    roots
}

async fn anybody() -> io::Result<Arc<ClientConfig>> {
    static ANYBODY: OnceCell<Arc<ClientConfig>> = OnceCell::const_new();
    let make = || async {
        let verifier = Arc::new(Unverified(default_provider()));
        made(|builder| {
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        })
    };
    ANYBODY.get_or_try_init(make).await.cloned()
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn made(build: impl FnOnce(Builder) -> ClientConfig) -> io::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(build(builder)))
}

/// Takes every certificate, but only from who has its key.
#[derive(Debug)]
struct Unverified(CryptoProvider);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
