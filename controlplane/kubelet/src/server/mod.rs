//! The kubelet's own server: container logs, commands in containers and health, for clients with a certificate of the cluster.

mod exec;
mod logs;
mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::exec::Commands;
use crate::logs::LogIndex;

/// A peer that vanished without a word is noticed after about a minute and a half.
const KEEPALIVE: Duration = Duration::from_secs(45);

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a server needs to begin.
pub struct Server {
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
}

// === impl Server ===

impl Server {
    /// Listens, with a certificate made now for `name` and `address`; clients must show one of `authorities` (DER).
    pub async fn bind(listen: SocketAddr, name: &str, address: IpAddr, authorities: &[Vec<u8>]) -> anyhow::Result<Self> {
        use anyhow::Context;
        let config = tls::config(name, address, authorities)?;
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen} for the API server"))?;
        Ok(Self { listener, acceptor: Arc::new(config).into() })
    }

    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves for as long as it is polled.
    pub async fn run(self, index: Arc<LogIndex>, commands: Arc<impl Commands>) {
        // Commands end with the server: nobody could hear them any more.
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                        if let Err(e) = SockRef::from(&stream).set_tcp_keepalive(&keepalive).and_then(|()| stream.set_nodelay(true)) {
                            tracing::debug!(%peer, error = %e, "a connection left at once");
                            continue;
                        }
                        let (acceptor, index) = (self.acceptor.clone(), index.clone());
                        let (commands, stop) = (commands.clone(), stop.clone());
                        connections.spawn(async move {
                            let stream = match acceptor.accept(stream).await {
                                Ok(stream) => stream,
                                Err(e) => return tracing::debug!(%peer, error = %e, "refused: no certificate of the cluster"),
                            };
                            let trusted = tls::trusted(stream.get_ref().1.peer_certificates());
                            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                                let (index, commands, stop) = (index.clone(), commands.clone(), stop.clone());
                                async move {
                                    if !trusted && request.uri().path() != "/healthz" {
                                        let words = "only the API server may ask this of a kubelet (a client of group system:masters)";
                                        return Ok(text(StatusCode::FORBIDDEN, words));
                                    }
                                    answer(request, index, commands, stop).await
                                }
                            });
                            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                            if let Err(e) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
                                tracing::debug!(%peer, error = %e, "connection ended");
                            }
                        });
                    }
                    Err(e) => {
                        // Out of descriptors, most likely: trying at once would only spin.
                        tracing::warn!(error = %e, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    index: Arc<LogIndex>,
    commands: Arc<impl Commands>,
    stop: CancellationToken,
) -> Result<Response<Body>, Infallible> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path: Vec<_> = uri.path().split('/').filter(|p| !p.is_empty()).collect();
    let query = uri.query().unwrap_or_default();
    let response = match (&method, path.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs::serve(index, namespace, pod, container, query).await
        }
        (&Method::GET | &Method::POST, ["exec", namespace, pod, container]) => {
            exec::serve(commands, exec::Place { namespace, pod, container }, request, stop).await
        }
        (_, ["attach" | "portForward" | "run", ..]) => {
            text(StatusCode::NOT_IMPLEMENTED, "this kubelet does not serve attach and port-forward")
        }
        (&Method::GET, _) => text(StatusCode::NOT_FOUND, "no such page"),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here"),
    };
    Ok(response)
}

fn text(status: StatusCode, words: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(words.into())).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
