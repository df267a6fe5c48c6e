//! The other end of the loads: lines and datagrams come back as they are, streams are counted. One thread, so that it can be
//! bound to a CPU, and with nothing to do but answer.

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Builder;

use super::rate::pin;

#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// TCP and UDP port of what comes back.
    #[arg(long, default_value_t = 9090)]
    pub port: u16,
    /// TCP port of what is counted.
    #[arg(long, default_value_t = 9091)]
    pub sink: u16,
    /// The CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// Serves until the standard input ends: with whoever started it.
///
/// # Errors
/// When a port is taken.
pub fn run(args: &ServeArgs) -> Result<()> {
    pin(args.cpu)?;
    let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let (ended, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while std::io::stdin().read(&mut sink).is_ok_and(|read| read > 0) {}
        let _ = ended.send(());
    });
    runtime.block_on(async {
        let lines = TcpListener::bind(any(args.port)).await.with_context(|| format!("listen on TCP port {}", args.port))?;
        let sink = TcpListener::bind(any(args.sink)).await.with_context(|| format!("listen on TCP port {}", args.sink))?;
        let datagrams = UdpSocket::bind(any(args.port)).await.with_context(|| format!("listen on UDP port {}", args.port))?;
        tokio::spawn(accept(lines, echo));
        tokio::spawn(accept(sink, count));
        tokio::spawn(answer(datagrams));
        let _ = wait.await;
        Ok(())
    })
}

/// A socket of IPv6 serves both families; a machine without IPv6 has no such sockets.
fn any(port: u16) -> SocketAddr {
    let six = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => six,
        Err(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
    }
}

async fn accept<F, Fut>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            // How a connection ends is its client's business.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

async fn count(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.write_all(format!("{bytes}\n").as_bytes()).await,
            read => bytes += read as u64,
        }
    }
}

async fn answer(socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // ICMP errors of an earlier answer surface here; the next datagram has nothing to do with them.
        if let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], client).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{crr, flow};
    use super::*;

    /// The three services on ports of loopback that are free.
    fn served(work: impl FnOnce([SocketAddr; 3]) + Send + 'static) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        runtime.block_on(async {
            let local = (Ipv4Addr::LOCALHOST, 0);
            let lines = TcpListener::bind(local).await.expect("bind");
            let sink = TcpListener::bind(local).await.expect("bind");
            let datagrams = UdpSocket::bind(local).await.expect("bind");
            let ports =
                [lines.local_addr(), sink.local_addr(), datagrams.local_addr()].map(|address| address.expect("address"));
            tokio::spawn(accept(lines, echo));
            tokio::spawn(accept(sink, count));
            tokio::spawn(answer(datagrams));
            tokio::task::spawn_blocking(move || work(ports)).await.expect("work");
        });
    }

    #[test]
    fn every_load_meets_its_server() {
        served(|[lines, sink, datagrams]| {
            assert!(crr::run(lines, 20, false).expect("connect-request-response").transactions > 0);
            assert!(crr::run(lines, 20, true).expect("request-response").transactions > 0);
            assert!(flow::stream(sink, 20).expect("stream").transactions > 0);
            let report = flow::datagrams(datagrams, 20, 1_000).expect("datagrams");
            assert_eq!(report.histogram().expect("histogram").len(), report.transactions);
        });
    }

    #[test]
    fn nobody_there_is_an_error_that_names_the_target() {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let target = free.local_addr().expect("address");
        drop(free);
        for error in [crr::run(target, 20, true), flow::stream(target, 20)].map(|result| result.expect_err("nobody")) {
            assert!(format!("{error:#}").contains(&target.to_string()), "{error:#}");
        }
    }
}
