//! The smallest HTTP server that health and metrics need: a function from a path to an answer.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Connections that one server serves at a time: probes are few, and nobody may tie up the node.
const CONNECTIONS: usize = 64;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server that cannot listen waits before it tries again.
const RETRY: Duration = Duration::from_secs(5);

/// What is sent back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: String,
}

/// From the path of a request to the answer. Runs where it may block.
pub type Handler = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// A server that runs until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct Server(JoinHandle<()>);

// === impl Answer ===

impl Answer {
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body: body.into() }
    }

    /// An object that always serialises; an error would answer 500 with its text.
    pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Self {
        match serde_json::to_string(body) {
            Ok(body) => Self { content_type: "application/json", ..Self::text(status, body) },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.extend(self.headers);
        response
    }
}

// === impl Server ===

impl Server {
    /// Serves on a listener that is open. Call it inside the runtime.
    ///
    /// # Errors
    /// When the runtime cannot take the listener.
    pub fn start(listener: TcpListener, handler: Handler) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Self(tokio::spawn(accept(listener, handler))))
    }

    /// Opens a listener and serves. When it cannot: an error with `hard_fail`, else it tries again every 5 seconds.
    ///
    /// # Errors
    /// Only with `hard_fail`.
    pub fn listen(what: &'static str, address: SocketAddr, hard_fail: bool, handler: Handler) -> std::io::Result<Self> {
        match TcpListener::bind(address) {
            Ok(listener) => Self::start(listener, handler),
            Err(error) if hard_fail => {
                Err(std::io::Error::new(error.kind(), format!("the {what} server cannot listen on {address}: {error}")))
            }
            Err(error) => {
                tracing::error!("the {what} server cannot listen on {address}: {error}; trying again every {RETRY:?}");
                Ok(Self(tokio::spawn(async move {
                    let listener = loop {
                        tokio::time::sleep(RETRY).await;
                        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
                            break listener;
                        }
                    };
                    tracing::info!("the {what} server listens on {address} after all");
                    accept(listener, handler).await;
                })))
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: tokio::net::TcpListener, handler: Handler) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    let _slot = slot;
                    serve(stream, handler).await;
                });
            }
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, handler: Handler) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let path = request.uri().path().to_owned();
            let answer = tokio::task::spawn_blocking(move || handler(&path)).await;
            let answer = answer.unwrap_or_else(|error| Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("connection: {error}");
    }
}
