//! Connect-request-response and request-response over TCP: one short line each way, against a server of lines.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use super::rate::{RateReport, repeat};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Transactions one after another for `millis`; with `persistent` on one connection, else each on its own.
///
/// # Errors
/// On the first transaction that fails: a rate with failures in it means nothing.
pub fn run(target: SocketAddr, millis: u64, persistent: bool) -> Result<RateReport> {
    let mut held = if persistent { Some(open(target)?) } else { None };
    repeat(millis, || {
        match &mut held {
            Some(connection) => exchange(connection),
            None => exchange(&mut open(target)?),
        }
        .with_context(|| format!("with {target}"))
    })
}

fn open(target: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&target, TIMEOUT).with_context(|| format!("connect to {target}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    // Closed by RST: without TIME_WAIT the 28,000 local ports last for ever, instead of for a few seconds, after which
    // a rate would measure the search for a free port.
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, Linger, &linger).context("set SO_LINGER")?;
    Ok(BufReader::with_capacity(512, stream))
}

fn exchange(connection: &mut BufReader<TcpStream>) -> Result<()> {
    connection.get_mut().write_all(b"x\n")?;
    let mut line = Vec::with_capacity(256);
    connection.read_until(b'\n', &mut line)?;
    ensure!(line.ends_with(b"\n"), "the connection was closed without an answer");
    Ok(())
}
