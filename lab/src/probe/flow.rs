//! Loads besides TCP transactions: datagrams that are answered one by one, and a stream of bytes into a sink.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::rate::{RateReport, limit, repeat};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of one write of a stream: as much as one GSO packet takes, twice.
const CHUNK: usize = 128 << 10;

/// Datagrams of `size` bytes from one connected socket, each answered before the next.
///
/// # Errors
/// When one of them is not answered.
pub fn datagrams(target: SocketAddr, millis: u64, size: usize) -> Result<RateReport> {
    ensure!((1..=60_000).contains(&size), "--size {size}: 1 to 60000");
    let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).context("open a UDP socket")?;
    socket.connect(target).with_context(|| format!("connect to {target}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let message = vec![b'x'; size];
    let mut buffer = vec![0; size];
    repeat(millis, || {
        socket.send(&message).with_context(|| format!("send to {target}"))?;
        let length = socket.recv(&mut buffer).with_context(|| format!("no answer from {target}"))?;
        ensure!(length == size, "{length} bytes came back of {size}");
        Ok(())
    })
}

/// Bytes into a sink for `millis`; what counts is what the sink says it got.
///
/// # Errors
/// When the connection breaks, or the sink has another count.
pub fn stream(target: SocketAddr, millis: u64) -> Result<RateReport> {
    let limit = limit(millis)?;
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT).with_context(|| format!("connect to {target}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let chunk = vec![0; CHUNK];
    let mut sent = 0;
    let started = Instant::now();
    while started.elapsed() < limit {
        stream.write_all(&chunk).with_context(|| format!("{sent} bytes after the start"))?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("no count from the sink")?;
    let took = started.elapsed();
    let got: u64 = text.trim().parse().with_context(|| format!("the sink said {text:?}"))?;
    ensure!(got == sent, "{sent} bytes were sent, the sink got {got}");
    Ok(RateReport::new(got, took, Vec::new()))
}
