//! Who is let in: a client with a certificate of the cluster's authority, and of its masters for more than health.

use http_body_util::Empty;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};

use super::*;
use crate::runtime::RuntimeError;
use crate::session::{Session, SessionRequest};

/// A node without containers.
struct Nothing;

impl Commands for Nothing {
    async fn find(&self, _: &str, _: &str, _: &str) -> crate::runtime::Result<Option<String>> {
        Ok(None)
    }

    async fn begin(&self, id: &str, _: &SessionRequest) -> crate::runtime::Result<Session> {
        Err(RuntimeError::NotFound { kind: "container", id: id.to_owned() })
    }
}

struct Authority(CertificateParams, KeyPair);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(params, KeyPair::generate().expect("key"))
    }

    fn der(&self) -> Vec<u8> {
        self.0.self_signed(&self.1).expect("certificate").der().to_vec()
    }

    fn client(&self, group: &str) -> (Vec<rustls::pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.0, &self.1)).expect("sign");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("key"))
    }
}

/// The status and the text of an answer; an error when the connection was refused.
async fn get(address: SocketAddr, path: &str, authority: Option<&Authority>) -> anyhow::Result<(u16, String)> {
    get_as(address, path, authority, "system:masters").await
}

async fn get_as(address: SocketAddr, path: &str, authority: Option<&Authority>, group: &str) -> anyhow::Result<(u16, String)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(crate::probe::any_certificate());
    let config = match authority.map(|authority| authority.client(group)) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    let stream = tokio::net::TcpStream::connect(address).await?;
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "node1").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    Ok((status, String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned()))
}

#[tokio::test]
async fn only_clients_of_the_cluster_are_served() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let local: SocketAddr = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind(local, "node1", local.ip(), &[ours.der()]).await.expect("bind");
    let address = server.local_addr().expect("address");
    tokio::spawn(server.run(Arc::new(LogIndex::default()), Arc::new(Nothing)));
    assert_eq!(get(address, "/healthz", Some(&ours)).await.expect("answer"), (200, "ok".to_owned()));
    assert_eq!(get(address, "/containerLogs/ns/pod/c", Some(&ours)).await.expect("answer").0, 404);
    assert_eq!(get(address, "/exec/ns/pod/c?command=sh&output=1", Some(&ours)).await.expect("answer").0, 404);
    assert_eq!(get(address, "/exec/ns/pod/c", Some(&ours)).await.expect("answer").0, 400);
    assert_eq!(get(address, "/attach/ns/pod/c", Some(&ours)).await.expect("answer").0, 501);
    assert_eq!(get(address, "/", Some(&ours)).await.expect("answer").0, 404);
    for path in ["/containerLogs/ns/pod/c", "/exec/ns/pod/c?command=sh&output=1", "/"] {
        assert_eq!(get_as(address, path, Some(&ours), "system:nodes").await.expect("answer").0, 403, "{path}");
    }
    assert_eq!(get_as(address, "/healthz", Some(&ours), "system:nodes").await.expect("answer").0, 200);
    assert!(get(address, "/healthz", None).await.is_err(), "without a certificate");
    assert!(get(address, "/healthz", Some(&theirs)).await.is_err(), "with a stranger's certificate");
    assert!(Server::bind(local, "node1", local.ip(), &[]).await.is_err(), "without an authority");
}
