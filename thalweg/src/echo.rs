//! `thalweg echo`: a server that says who answered, over HTTP, TCP and UDP. The demo's workload and every test's peer.
//!
//! After SIGTERM it goes on serving for the lame-duck time, so that clients which chose it a moment before the
//! endpoint went away are still answered; then it closes.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// Longest line of the TCP echo and longest datagram, in bytes.
const MESSAGE_LIMIT: usize = 65_536;

#[derive(Args, Debug)]
pub struct EchoArgs {
    /// Address to listen on (default: all, of both families where the machine has both).
    #[arg(long)]
    bind: Option<IpAddr>,
    /// HTTP port; 0 turns HTTP off.
    #[arg(long, default_value_t = 8080)]
    http: u16,
    /// Port of the line-wise TCP echo; 0 turns it off.
    #[arg(long, default_value_t = 9090)]
    tcp: u16,
    /// Port of the UDP echo; 0 turns it off.
    #[arg(long, default_value_t = 9090)]
    udp: u16,
    /// The name to answer with (default: the host name, which in a pod is the pod's name).
    #[arg(long, env = "POD_NAME")]
    name: Option<String>,
    /// The node to answer with.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node: String,
    /// Seconds to go on serving after SIGTERM.
    #[arg(long, default_value_t = 2.0)]
    lameduck: f64,
}

/// What every protocol answers, as one JSON object.
#[derive(Serialize)]
struct Answer<'a> {
    pod: &'a str,
    node: &'a str,
    /// Who asked, as this server sees it.
    client: SocketAddr,
    /// The address that the request arrived at.
    server: SocketAddr,
    protocol: &'static str,
    /// HTTP: the path. TCP and UDP: the message.
    message: &'a str,
    /// Requests served so far, this one included.
    requests: u64,
}

struct Echo {
    pod: String,
    node: String,
    requests: AtomicU64,
}

pub async fn run(args: EchoArgs) -> Result<()> {
    let pod = match args.name {
        Some(name) => name,
        None => nix::unistd::gethostname().context("read the host name")?.to_string_lossy().into_owned(),
    };
    let echo = Arc::new(Echo { pod, node: args.node, requests: AtomicU64::new(0) });
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;

    let bind = args.bind.unwrap_or_else(everywhere);
    if args.http != 0 {
        tokio::spawn(accept(listen(bind, args.http).await?, Arc::clone(&echo), serve_http));
    }
    if args.tcp != 0 {
        tokio::spawn(accept(listen(bind, args.tcp).await?, Arc::clone(&echo), serve_lines));
    }
    if args.udp != 0 {
        let address = SocketAddr::new(bind, args.udp);
        let socket = UdpSocket::bind(address).await.with_context(|| format!("listen on UDP {address}"))?;
        tokio::spawn(serve_datagrams(socket, Arc::clone(&echo)));
    }
    println!("thalweg echo: {} listens on {}: http {}, tcp {}, udp {}", echo.pod, bind, args.http, args.tcp, args.udp);
    tokio::select! {
        _ = terminate.recv() => tokio::time::sleep(Duration::from_secs_f64(args.lameduck.max(0.0))).await,
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A socket of IPv6 serves both families; a machine without IPv6 has no such sockets.
fn everywhere() -> IpAddr {
    let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if std::net::UdpSocket::bind((any, 0)).is_ok() { any } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// An address as it stands in a packet: an IPv4 client of an IPv6 socket is shown mapped.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn listen(bind: IpAddr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    TcpListener::bind(address).await.with_context(|| format!("listen on TCP {address}"))
}

async fn accept<F, Fut>(listener: TcpListener, echo: Arc<Echo>, serve: F)
where
    F: Fn(TcpStream, Arc<Echo>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve(stream, Arc::clone(&echo));
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!("connection: {error:#}");
                    }
                });
            }
            // Out of file descriptors or a connection that was reset before it was accepted: neither ends the server.
            Err(error) => {
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_http(stream: TcpStream, echo: Arc<Echo>) -> Result<()> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    stream.set_nodelay(true)?;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let echo = Arc::clone(&echo);
        async move {
            let body = echo.answer(client, server, "http", request.uri().path());
            let mut response = Response::new(Full::new(Bytes::from(body)));
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
            Ok::<_, Infallible>(response)
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn serve_lines(stream: TcpStream, echo: Arc<Echo>) -> Result<()> {
    let (client, server) = (stream.peer_addr()?, stream.local_addr()?);
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(reader, MESSAGE_LIMIT as u64));
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        reader.get_mut().set_limit(MESSAGE_LIMIT as u64);
        writer.write_all(&echo.answer(client, server, "tcp", String::from_utf8_lossy(&line).trim_end())).await?;
    }
}

async fn serve_datagrams(socket: UdpSocket, echo: Arc<Echo>) {
    let mut buffer = vec![0; MESSAGE_LIMIT];
    loop {
        let received = socket.recv_from(&mut buffer).await;
        let answered = match (received, socket.local_addr()) {
            (Ok((length, client)), Ok(server)) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                socket.send_to(&echo.answer(client, server, "udp", text.trim_end()), client).await.map(drop)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        // ICMP errors of an earlier answer surface here; the next datagram has nothing to do with them.
        if let Err(error) = answered {
            tracing::debug!("udp: {error}");
        }
    }
}

// === impl Echo ===

impl Echo {
    fn answer(&self, client: SocketAddr, server: SocketAddr, protocol: &'static str, message: &str) -> Vec<u8> {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (client, server) = (plain(client), plain(server));
        let answer = Answer { pod: &self.pod, node: &self.node, client, server, protocol, message, requests };
        let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
