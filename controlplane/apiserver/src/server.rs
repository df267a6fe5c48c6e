//! Starting and running: opens the store, makes the certificates, binds the listeners, and serves connections until told to stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use socket2::{SockRef, TcpKeepalive};
use thalweg_store::Embedded;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admit::alloc::ServiceAllocator;
use crate::api::Api;
use crate::authn::Authenticator;
use crate::authz::ByGroup;
use crate::config::Config;
use crate::kubeconfig::write_kubeconfig;
use crate::kubelet::Kubelet;
use crate::metrics::Metrics;
use crate::pki::Pki;
use crate::{bootstrap, inherit};

const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long open requests may go on after the order to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// A peer that vanished without a word is noticed by the kernel after about a minute and a half.
const KEEPALIVE: Duration = Duration::from_secs(45);

/// Runs the API server until `shutdown`. `ready` is told once it serves.
///
/// # Errors
/// When the data directory, the certificates or the listeners cannot be used. Later failures are answers to requests.
pub async fn run(config: Config, ready: oneshot::Sender<()>, shutdown: CancellationToken) -> Result<()> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("making the data directory {}", config.data.display()))?;
    let listeners = listen(&config)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pki = Pki::open(&config.data)?;
    let file = config.data.join("store.redb");
    let store = tokio::task::spawn_blocking(move || Embedded::open(&file)).await??;
    let api = Arc::new(Api {
        store: Arc::new(store),
        services: Mutex::new(ServiceAllocator::new(config.service_cidr, config.node_ports)),
        authenticator: Authenticator::new(pki.ca()?, provider.clone(), config.token_file.as_deref())?,
        authorizer: Box::new(ByGroup),
        kubelet: Kubelet::new(&pki.client("kube-apiserver-kubelet-client", &["system:masters"])?, provider.clone())?,
        metrics: Metrics::default(),
        shutdown: shutdown.clone(),
    });
    bootstrap::run(&api, &config).await?;

    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?;
    let admin = config.data.join("admin.kubeconfig");
    write_kubeconfig(&config.data, &url(&addresses), "kubernetes-admin", &["system:masters"], &admin)?;
    let tls = tls(&config, &pki, &addresses, &api.authenticator, provider)?;
    let mut accepting = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        accepting.spawn(accept(tokio::net::TcpListener::from_std(listener)?, tls.clone(), api.clone()));
    }
    accepting.spawn(bootstrap::expire_events(api.clone()));
    tracing::info!(?addresses, "the API server is ready");
    // Nobody waiting for readiness is no reason to stop.
    let _ = ready.send(());
    while let Some(ended) = accepting.join_next().await {
        ended?;
    }
    Ok(())
}

/// Inherited sockets first: who passes one on has chosen where clients connect.
fn listen(config: &Config) -> Result<Vec<TcpListener>> {
    let mut listeners = if config.inherit { inherit::listeners()? } else { Vec::new() };
    for address in &config.listen {
        let listener = TcpListener::bind(address).with_context(|| {
            format!("listening on {address}: is another server running, or the address not on this machine?")
        })?;
        listeners.push(listener);
    }
    if listeners.is_empty() {
        bail!("no address to listen on: give one, or pass a socket on");
    }
    Ok(listeners)
}

/// The server's URL for clients on this machine: loopback if there is one, else the first listener.
fn url(addresses: &[SocketAddr]) -> String {
    let near = addresses.iter().find(|address| address.ip().is_loopback());
    let Some(mut address) = near.or(addresses.first()).copied() else { return String::new() };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("https://{address}")
}

fn tls(
    config: &Config,
    pki: &Pki,
    addresses: &[SocketAddr],
    authenticator: &Authenticator,
    provider: Arc<CryptoProvider>,
) -> Result<TlsAcceptor> {
    let mut sans: Vec<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .into();
    sans.extend(addresses.iter().map(|address| address.ip().to_string()).filter(|ip| ip != "0.0.0.0" && ip != "::"));
    sans.push(config.advertise.ip().to_string());
    sans.push(bootstrap::first_service_address(config.service_cidr)?.to_string());
    sans.extend(config.sans.iter().cloned());
    let mut unique = Vec::with_capacity(sans.len());
    for san in sans {
        if !unique.contains(&san) {
            unique.push(san);
        }
    }
    let (chain, key) = pki.server(&unique)?.der()?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(authenticator.tls_verifier())
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// Accepts connections of one listener until shutdown, then lets the open ones finish.
async fn accept(listener: tokio::net::TcpListener, tls: TlsAcceptor, api: Arc<Api>) {
    let graceful = GracefulShutdown::new();
    // Whatever is open when this ends, ends with it: nothing may hold the store longer.
    let ended = CancellationToken::new();
    let _end = ended.clone().drop_guard();
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.shutdown.cancelled() => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer is gone already: neither is a reason to stop, nor to spin.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, api, server, watcher) = (tls.clone(), api.clone(), server.clone(), graceful.watcher());
        let ended = ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                served = connection(tcp, &tls, api, &server, watcher) => if let Err(error) = served {
                    tracing::debug!(%peer, %error, "connection ended");
                },
                () = ended.cancelled() => {}
            }
        });
    }
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn connection(
    tcp: TcpStream,
    tls: &TlsAcceptor,
    api: Arc<Api>,
    server: &auto::Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(&tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))?;
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(tcp)).await.context("TLS handshake timed out")??;
    let certificate = api.authenticator.certificate(stream.get_ref().1.peer_certificates());
    let service = service_fn(|request| {
        let (api, certificate) = (api.clone(), certificate.clone());
        async move { Ok::<_, std::convert::Infallible>(api.serve(&certificate, request).await) }
    });
    let serving = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(serving).await.map_err(|error| anyhow::anyhow!(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_reaches_the_nearest_listener() {
        let check = |addresses: &[&str], expected: &str| {
            let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(url(&addresses), expected);
        };
        check(&["172.30.0.1:6443", "127.0.0.1:7443"], "https://127.0.0.1:7443");
        check(&["172.30.0.1:6443"], "https://172.30.0.1:6443");
        check(&["0.0.0.0:6443"], "https://127.0.0.1:6443");
        check(&["[::]:6443"], "https://[::1]:6443");
    }
}
