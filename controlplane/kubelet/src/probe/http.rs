//! One HTTP request of a probe or a hook: no redirects followed, no certificate checked, as Kubernetes has it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(super) async fn get(address: SocketAddr, action: &HTTPGetAction) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("dial {address}: {e}"))?;
    let status = if action.scheme.as_deref() == Some("HTTPS") {
        let name = ServerName::IpAddress(address.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(unchecked()?));
        let stream = connector.connect(name, stream).await.map_err(|e| format!("TLS to {address}: {e}"))?;
        request(stream, address, action).await?
    } else {
        request(stream, address, action).await?
    };
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    action: &HTTPGetAction,
) -> Result<u16, String> {
    let request = build(address, action)?;
    let failed = |e: hyper::Error| format!("GET {address}: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(failed);
    driver.abort(); // the body is of no interest
    Ok(response?.status().as_u16())
}

fn build(address: SocketAddr, action: &HTTPGetAction) -> Result<http::Request<Empty<Bytes>>, String> {
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut builder = http::Request::get(path);
    let given = |name: &str| action.http_headers.iter().flatten().any(|h| h.name.eq_ignore_ascii_case(name));
    if !given("host") {
        builder = builder.header("host", address.to_string());
    }
    if !given("user-agent") {
        builder = builder.header("user-agent", "kube-probe/1.36");
    }
    if !given("accept") {
        builder = builder.header("accept", "*/*");
    }
    for header in action.http_headers.iter().flatten() {
        builder = builder.header(&header.name, &header.value);
    }
    builder.header("connection", "close").body(Empty::new()).map_err(|e| format!("the request cannot be made: {e}"))
}

fn unchecked() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(any_certificate()).with_no_client_auth())
}

/// Accepts any server's certificate.
pub fn any_certificate() -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    Arc::new(Anyone(Arc::new(rustls::crypto::ring::default_provider())))
}

/// Accepts any certificate: a probe asks whether the container answers, not who it is.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::HTTPHeader;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn check(answer: &'static str, expected: Result<(), &str>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.expect("read");
            stream.write_all(answer.as_bytes()).await.expect("write");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let action = HTTPGetAction {
            path: Some("ready?x=1".into()),
            port: IntOrString::Int(address.port().into()),
            http_headers: Some(vec![HTTPHeader { name: "Host".into(), value: "web.example".into() }]),
            ..HTTPGetAction::default()
        };
        let result = get(address, &action).await;
        assert_eq!(result.map_err(|e| e.to_string()), expected.map_err(str::to_owned), "{answer}");
        let request = server.await.expect("server").to_lowercase();
        assert!(request.starts_with("get /ready?x=1 http/1.1\r\n") && request.contains("host: web.example\r\n"), "{request}");
    }

    #[tokio::test]
    async fn statuses() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(())).await;
        check("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", Ok(())).await;
        let text = "HTTP probe failed with statuscode: 503";
        check("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", Err(text)).await;
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let error = get(address, &HTTPGetAction::default()).await.expect_err("refused");
        assert!(error.contains("refused"), "{error}");
    }
}
