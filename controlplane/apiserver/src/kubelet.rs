//! The way to kubelets: what a request about a container of a pod means, and the connection to the node that runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result as AnyResult;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::Api;
use crate::kinds;
use crate::object;
use crate::pki::Identity;
use crate::query::Query;
use crate::respond::Body;
use crate::route::Call;
use crate::status::{ApiError, Result};

const PORT: u16 = 10250;
const DIAL: Duration = Duration::from_secs(5);

pub(crate) struct Kubelet {
    tls: TlsConnector,
}

// === impl Kubelet ===

impl Kubelet {
    /// `identity` is what the API server shows to kubelets.
    pub(crate) fn new(identity: &Identity, provider: Arc<CryptoProvider>) -> AnyResult<Self> {
        let (chain, key) = identity.der()?;
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKubelet(provider)))
            .with_client_auth_cert(chain, key)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    pub(crate) async fn get(&self, address: SocketAddr, target: &str) -> std::result::Result<Response<Body>, String> {
        let (parts, body) = self.send(address, Method::GET, target, HeaderMap::new()).await?.into_parts();
        Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }

    /// One request without a body, on a connection of its own. An upgrade that the kubelet agrees to is the caller's.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        method: Method,
        target: &str,
        headers: HeaderMap,
    ) -> std::result::Result<Response<Incoming>, String> {
        let dial = async {
            let tcp = TcpStream::connect(address).await?;
            self.tls.connect(ServerName::from(address.ip()), tcp).await
        };
        let stream = tokio::time::timeout(DIAL, dial).await.map_err(|_| "timed out".to_owned())?;
        let io = TokioIo::new(stream.map_err(|error| error.to_string())?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|error| error.to_string())?;
        // Ends with the answer's body, or when the client goes away and the body is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a kubelet ended");
            }
        });
        let request = http::Request::builder().method(method).uri(target).body(Empty::<Bytes>::new());
        let mut request = request.map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        let host = HeaderValue::try_from(address.to_string()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, host);
        sender.send_request(request).await.map_err(|error| error.to_string())
    }
}

/// Kubelets make their serving certificates themselves. As in Kubernetes without `--kubelet-certificate-authority`, any
/// certificate is taken, once its key is proven; the node's address comes from the Node object.
#[derive(Debug)]
struct AnyKubelet(Arc<CryptoProvider>);

// === impl AnyKubelet ===

impl ServerCertVerifier for AnyKubelet {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The pod's kubelet: where the container is that a request names, and who runs it.
pub(crate) struct Place {
    pub pod: Value,
    pub container: String,
    /// None before the pod is bound to a node.
    pub address: Option<SocketAddr>,
}

// === impl Api ===

impl Api {
    /// Finds what a request about a container of a pod means.
    pub(crate) async fn place(&self, call: &Call, query: &Query) -> Result<Place> {
        let pod = object::decode_item(&self.find(call.kind, &call.namespace, &call.name).await?)?;
        let container = container(&pod, query.get("container"))?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Ok(Place { pod, container, address: None });
        }
        let node_kind = kinds::by_kind("", "v1", "Node").ok_or_else(|| ApiError::internal("nodes are not served"))?;
        let node = object::decode_item(&self.find(node_kind, "", node).await?)?;
        let address = address(&node)
            .ok_or_else(|| ApiError::internal(format!("node {} has no InternalIP in its status", object::name(&node))))?;
        Ok(Place { pod, container, address: Some(address) })
    }
}

/// The container whose log is meant: the only one, when none is named.
fn container(pod: &Value, asked: &str) -> Result<String> {
    let names = |field: &str| -> Vec<&str> {
        pod["spec"][field].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    let name = object::name(pod);
    match (asked, containers.as_slice()) {
        ("", [only]) => Ok((*only).to_owned()),
        ("", all) => {
            let init =
                if init.is_empty() { String::new() } else { format!(" or one of the init containers: [{}]", init.join(" ")) };
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{init}",
                all.join(" ")
            )))
        }
        (asked, all) if all.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        (asked, _) => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}"))),
    }
}

fn address(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(PORT);
    Some(SocketAddr::new(internal["address"].as_str()?.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_or_the_only_one() {
        let pod = |containers: &[&str]| {
            let list: Vec<_> = containers.iter().map(|name| json!({ "name": name })).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a", "b"]), "b").unwrap(), "b");
        assert_eq!(container(&pod(&["a"]), "i").unwrap(), "i");
        let error = container(&pod(&["a", "b"]), "").unwrap_err();
        assert!(error.message().contains("choose one of: [a b] or one of the init containers: [i]"), "{error}");
        assert_eq!(container(&pod(&["a"]), "x").unwrap_err().code(), 400);
    }

    #[test]
    fn a_node_says_where_its_kubelet_listens() {
        let check = |status: Value, expected: Option<&str>| {
            assert_eq!(address(&json!({ "status": status })), expected.map(|text| text.parse().unwrap()));
        };
        let addresses = json!([{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "172.30.0.11"}]);
        check(json!({ "addresses": addresses }), Some("172.30.0.11:10250"));
        let endpoint = json!({"kubeletEndpoint": {"Port": 4444}});
        check(json!({"addresses": addresses, "daemonEndpoints": endpoint}), Some("172.30.0.11:4444"));
        check(json!({}), None);
    }
}
