//! Probes: small clients that run inside a namespace, do a bounded amount of work and report it as one JSON object.
//!
//! They are a process of their own (`thalweg-lab probe …`), because what they test depends on the network
//! namespace, the mount namespace (resolv.conf) and the control group of the caller.

mod crr;
mod dns;
mod dns_load;
mod flow;
mod http;
mod rate;
mod serve;
mod session;

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

pub use dns::DnsReport;
pub use dns_load::{DnsLoadArgs, DnsLoadReport};
pub use http::{HttpReport, Latency};
pub use rate::{RateReport, histogram};
pub use serve::ServeArgs;
pub use session::{Said, SessionArgs};

/// No probe runs longer than this, whatever it is asked.
const MAX_SECONDS: u64 = 120;

#[derive(Subcommand, Debug)]
pub enum Probe {
    /// HTTP GET requests, each on a connection of its own.
    Http(HttpArgs),
    /// One TCP connection attempt.
    Connect { target: String },
    /// UDP datagrams to an echo server, each answered before the next.
    Udp {
        target: String,
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// One DNS query.
    Dns {
        name: String,
        #[arg(default_value = "A")]
        record: String,
        #[arg(long)]
        server: SocketAddr,
        #[arg(long)]
        tcp: bool,
    },
    /// TCP transactions one after another, each on a connection of its own, as fast as they go.
    Crr {
        target: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        millis: u64,
        /// One connection for all of them: request-response.
        #[arg(long)]
        persistent: bool,
        /// The CPU to run on.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Datagrams one after another from one socket, each answered before the next, as fast as they go.
    UdpRr {
        target: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        millis: u64,
        /// Bytes of each.
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// A stream of bytes into a sink, as fast as it goes.
    Stream {
        target: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        millis: u64,
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// DNS queries, many outstanding, as fast as they are answered.
    DnsLoad(DnsLoadArgs),
    /// The server of the loads but DNS, until the standard input ends.
    Serve(ServeArgs),
    /// One socket that speaks once for each line on its standard input.
    Session(SessionArgs),
    /// Takes a local port, as a server would.
    Bind {
        address: SocketAddr,
        #[arg(long)]
        udp: bool,
    },
    /// Looks a name up the way programs do: getaddrinfo, with the search path of resolv.conf.
    Resolve { name: String },
}

#[derive(Args, Debug, Clone)]
pub struct HttpArgs {
    /// `HOST:PORT`; a name is resolved for every request.
    pub target: String,
    #[arg(long, default_value = "/")]
    pub path: String,
    /// How many requests; without it the probe goes on until its standard input ends.
    #[arg(long)]
    pub count: Option<u64>,
    /// Requests in flight.
    #[arg(long, default_value_t = 1)]
    pub concurrency: usize,
    /// Milliseconds between two requests of one worker.
    #[arg(long, default_value_t = 0)]
    pub pause: u64,
    /// Milliseconds until a connect or an answer counts as failed.
    #[arg(long, default_value_t = 3000)]
    pub timeout: u64,
    /// Keep one connection per worker instead of one per request.
    #[arg(long)]
    pub keep_alive: bool,
}

/// How one connection attempt ended.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ConnectReport {
    /// `connected`, `refused`, `timeout`, or the error's text.
    pub outcome: String,
    pub micros: u64,
    /// The peer's address as getpeername reports it.
    pub peer: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UdpReport {
    pub answered: u32,
    pub lost: u32,
    /// First error, such as "Connection refused".
    pub error: Option<String>,
    /// Answers by pod name.
    pub pods: std::collections::BTreeMap<String, u32>,
    /// Where the last answer came from, as recvfrom reports it.
    pub source: Option<SocketAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BindReport {
    /// Why the port could not be taken.
    pub error: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResolveReport {
    pub addresses: Vec<std::net::IpAddr>,
    pub error: Option<String>,
    pub micros: u64,
}

/// Runs the probe and prints its report.
///
/// # Errors
/// Only for what is wrong with the question; a peer that does not answer is a result.
pub fn run(probe: Probe) -> Result<()> {
    let report = match probe {
        Probe::Http(args) => serde_json::to_string(&http::run(args, until_eof())?)?,
        Probe::Connect { target } => serde_json::to_string(&connect(resolve_one(&target)?))?,
        Probe::Udp { target, count } => serde_json::to_string(&udp(resolve_one(&target)?, count)?)?,
        Probe::Dns { name, record, server, tcp } => serde_json::to_string(&dns::query(&name, &record, server, tcp)?)?,
        Probe::Crr { target, millis, persistent, cpu } => {
            rate::pin(cpu)?;
            serde_json::to_string(&crr::run(target, millis, persistent)?)?
        }
        Probe::UdpRr { target, millis, size, cpu } => {
            rate::pin(cpu)?;
            serde_json::to_string(&flow::datagrams(target, millis, size)?)?
        }
        Probe::Stream { target, millis, cpu } => {
            rate::pin(cpu)?;
            serde_json::to_string(&flow::stream(target, millis)?)?
        }
        Probe::DnsLoad(args) => {
            rate::pin(args.cpu)?;
            serde_json::to_string(&dns_load::run(&args)?)?
        }
        Probe::Serve(args) => return serve::run(&args),
        Probe::Session(args) => return session::run(&args),
        Probe::Bind { address, udp } => serde_json::to_string(&bind(address, udp))?,
        Probe::Resolve { name } => serde_json::to_string(&resolve(&name))?,
    };
    println!("{report}");
    Ok(())
}

/// Set when standard input ends or [`MAX_SECONDS`] are over.
fn until_eof() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let by_input = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut sink = [0; 64];
        while std::io::stdin().read(&mut sink).is_ok_and(|read| read > 0) {}
        by_input.store(true, Ordering::Relaxed);
    });
    let by_time = Arc::clone(&stop);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(MAX_SECONDS));
        by_time.store(true, Ordering::Relaxed);
    });
    stop
}

fn resolve_one(target: &str) -> Result<SocketAddr> {
    let mut found = target.to_socket_addrs().with_context(|| format!("resolve {target}"))?;
    found.next().with_context(|| format!("{target} has no address"))
}

fn bind(address: SocketAddr, udp: bool) -> BindReport {
    let result = if udp { UdpSocket::bind(address).map(drop) } else { TcpListener::bind(address).map(drop) };
    BindReport { error: result.err().map(|error| error.to_string()) }
}

fn connect(target: SocketAddr) -> ConnectReport {
    let started = Instant::now();
    let result = TcpStream::connect_timeout(&target, Duration::from_secs(3));
    let micros = micros(started);
    match result {
        Ok(stream) => ConnectReport { outcome: "connected".to_owned(), micros, peer: stream.peer_addr().ok() },
        Err(error) => ConnectReport { outcome: outcome(&error), micros, peer: None },
    }
}

fn outcome(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

fn udp(target: SocketAddr, count: u32) -> Result<UdpReport> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("open a UDP socket")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut report = UdpReport { answered: 0, lost: 0, error: None, pods: Default::default(), source: None };
    let mut buffer = [0; 2048];
    for number in 0..count {
        let result = socket.send_to(format!("probe {number}").as_bytes(), target).and_then(|_| socket.recv_from(&mut buffer));
        match result {
            Ok((length, source)) => {
                report.answered += 1;
                report.source = Some(source);
                let pod = serde_json::from_slice::<serde_json::Value>(&buffer[..length])
                    .ok()
                    .and_then(|answer| Some(answer.get("pod")?.as_str()?.to_owned()))
                    .unwrap_or_else(|| "?".to_owned());
                *report.pods.entry(pod).or_default() += 1;
            }
            Err(error) => {
                report.lost += 1;
                report.error.get_or_insert_with(|| outcome(&error));
            }
        }
    }
    Ok(report)
}

fn resolve(name: &str) -> ResolveReport {
    let started = Instant::now();
    match (name, 0).to_socket_addrs() {
        Ok(found) => {
            let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
            addresses.sort();
            addresses.dedup();
            ResolveReport { addresses, error: None, micros: micros(started) }
        }
        Err(error) => ResolveReport { addresses: Vec::new(), error: Some(error.to_string()), micros: micros(started) },
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Reads a probe's report from what it printed.
///
/// # Errors
/// With the output, when it is no report.
pub fn parse<T: serde::de::DeserializeOwned>(output: &str) -> Result<T> {
    match serde_json::from_str(output.trim()) {
        Ok(report) => Ok(report),
        Err(error) => bail!("the probe printed no report ({error}): {output:?}"),
    }
}
