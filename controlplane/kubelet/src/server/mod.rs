//! The kubelet's own server: container logs and health, for clients with a certificate of the cluster.

mod logs;
mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::logs::LogIndex;

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
    pub async fn run(self, index: Arc<LogIndex>) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let (acceptor, index) = (self.acceptor.clone(), index.clone());
                        connections.spawn(async move {
                            let stream = match acceptor.accept(stream).await {
                                Ok(stream) => stream,
                                Err(e) => return tracing::debug!(%peer, error = %e, "refused: no certificate of the cluster"),
                            };
                            let service = hyper::service::service_fn(move |request| answer(request, index.clone()));
                            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                            if let Err(e) = builder.serve_connection(TokioIo::new(stream), service).await {
                                tracing::debug!(%peer, error = %e, "connection ended");
                            }
                        });
                    }
                    Err(e) => {
                        // Out of descriptors, most likely: trying at once would only spin.
                        tracing::warn!(error = %e, "a connection could not be accepted");
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn answer(request: Request<Incoming>, index: Arc<LogIndex>) -> Result<Response<Body>, Infallible> {
    let path: Vec<_> = request.uri().path().split('/').filter(|p| !p.is_empty()).collect();
    let query = request.uri().query().unwrap_or_default();
    let response = match (request.method(), path.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs::serve(index, namespace, pod, container, query).await
        }
        (&Method::GET, ["healthz" | "containerLogs", ..]) => text(StatusCode::NOT_FOUND, "no such page"),
        (_, ["exec" | "attach" | "portForward" | "run", ..]) => {
            text(StatusCode::NOT_IMPLEMENTED, "this kubelet does not serve exec, attach and port-forward yet")
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
