//! The smallest HTTP server that health and metrics need: a function from a path to an answer.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
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

/// A server that runs until it is dropped; its connections end with it, and its port is free at once.
#[derive(Debug)]
pub struct Server {
    tasks: Vec<JoinHandle<()>>,
    /// The tasks' own, for the end.
    listeners: Vec<TcpListener>,
}

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
    /// Serves on listeners that are open. Call it inside the runtime.
    ///
    /// # Errors
    /// When the runtime cannot take a listener.
    pub fn start(listeners: impl IntoIterator<Item = TcpListener>, handler: &Handler) -> io::Result<Self> {
        let mut server = Self { tasks: Vec::new(), listeners: listeners.into_iter().collect() };
        for listener in &server.listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            server.tasks.push(tokio::spawn(accept(listener, Arc::clone(handler))));
        }
        Ok(server)
    }

    /// Listens as [`listen`] does, and serves. When it cannot: an error with `hard_fail`, else it tries again every 5
    /// seconds.
    ///
    /// # Errors
    /// Only with `hard_fail`.
    pub fn listen(what: &'static str, address: SocketAddr, hard_fail: bool, handler: Handler) -> io::Result<Self> {
        match listen(address) {
            Ok(listeners) => Self::start(listeners, &handler),
            Err(error) if hard_fail => {
                Err(io::Error::new(error.kind(), format!("the {what} server cannot listen on {address}: {error}")))
            }
            Err(error) => {
                tracing::error!("the {what} server cannot listen on {address}: {error}; trying again every {RETRY:?}");
                let retry = tokio::spawn(async move {
                    // Held until this task is aborted.
                    let _server = loop {
                        tokio::time::sleep(RETRY).await;
                        if let Ok(server) = listen(address).and_then(|listeners| Self::start(listeners, &handler)) {
                            break server;
                        }
                    };
                    tracing::info!("the {what} server listens on {address} after all");
                    std::future::pending::<()>().await;
                });
                Ok(Self { tasks: vec![retry], listeners: Vec::new() })
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // The tasks end a moment later; nobody must be let in meanwhile, and the port is somebody else's now.
        for listener in &self.listeners {
            if let Err(error) = SockRef::from(listener).shutdown(Shutdown::Both) {
                tracing::debug!("close a listener: {error}");
            }
        }
    }
}

/// Opens listeners on an address. Every address of the machine, however that is written, is those of both families, as it
/// is for kube-proxy: whoever asks may come by either.
///
/// # Errors
/// When the address is taken, or is none of this machine's.
pub fn listen(address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    if !address.ip().is_unspecified() {
        return Ok(vec![TcpListener::bind(address)?]);
    }
    let every = |ip: IpAddr| TcpListener::bind(SocketAddr::new(ip, address.port()));
    let v6 = match every(Ipv6Addr::UNSPECIFIED.into()) {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A machine without IPv6.
        Err(_) => return Ok(vec![every(Ipv4Addr::UNSPECIFIED.into())?]),
    };
    match every(Ipv4Addr::UNSPECIFIED.into()) {
        Ok(v4) => Ok(vec![v6, v4]),
        // The first one took both families, as it does unless net.ipv6.bindv6only says otherwise.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(vec![v6]),
        Err(error) => Err(error),
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
