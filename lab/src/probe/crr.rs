//! Connect-request-response and request-response over TCP: one short line each way, against `thalweg echo --tcp`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use serde::{Deserialize, Serialize};

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RateReport {
    pub transactions: u64,
    pub seconds: f64,
    pub per_second: f64,
}

/// Transactions one after another for `millis`; with `persistent` on one connection, else each on its own.
///
/// # Errors
/// On the first transaction that fails: a rate with failures in it means nothing.
pub fn run(target: SocketAddr, millis: u64, persistent: bool) -> Result<RateReport> {
    ensure!((1..=30_000).contains(&millis), "--millis {millis}: 1 to 30000");
    let limit = Duration::from_millis(millis);
    let mut transactions = 0;
    let mut held = None;
    let started = Instant::now();
    while started.elapsed() < limit {
        let connection = match held.take() {
            Some(connection) => connection,
            None => open(target)?,
        };
        let connection = exchange(connection).with_context(|| format!("transaction {transactions} with {target}"))?;
        if persistent {
            held = Some(connection);
        } else {
            drop(connection);
        }
        transactions += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(RateReport { transactions, seconds, per_second: transactions as f64 / seconds })
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

fn exchange(mut connection: BufReader<TcpStream>) -> Result<BufReader<TcpStream>> {
    connection.get_mut().write_all(b"x\n")?;
    let mut line = Vec::with_capacity(256);
    connection.read_until(b'\n', &mut line)?;
    ensure!(line.ends_with(b"\n"), "the connection was closed without an answer");
    Ok(connection)
}
