//! The server's TLS: a certificate of its own making, clients by the cluster's authority, and which of them may ask for more
//! than health.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

pub(super) fn config(name: &str, address: IpAddr, authorities: &[Vec<u8>]) -> Result<rustls::ServerConfig> {
    ensure!(!authorities.is_empty(), "the kubeconfig names no certificate authority: nobody could be let in to read logs");
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from(authority.clone())).context("read the kubeconfig's certificate authority")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .context("use the kubeconfig's certificate authority")?;
    let names = vec![name.to_owned(), address.to_string()];
    let made = rcgen::generate_simple_self_signed(names).context("make the serving certificate")?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![made.cert.der().clone()], key)
        .context("use the serving certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The group whose members may do everything, as in Kubernetes; the API server shows kubelets a certificate of it.
const MASTERS: &str = "system:masters";

/// Whether the client may read logs and run commands. A certificate of the cluster alone does not say so: every node has one,
/// and users may. (The handshake has verified it.)
pub(super) fn trusted(chain: Option<&[CertificateDer<'_>]>) -> bool {
    let Some(first) = chain.and_then(<[_]>::first) else { return false };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(first) else { return false };
    certificate.subject().iter_organization().any(|group| group.as_str() == Ok(MASTERS))
}
