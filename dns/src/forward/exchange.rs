//! One question to one upstream: over UDP by a socket of its own, over TCP when that is not enough.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::libc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::ask::{RANDOM, Verdict, judge, write_query};
use super::question::Question;
use super::reply::Reply;

/// The largest packet that an upstream sends: more than we ask for, since some do.
const MAX_PACKET: usize = 4096;
/// Packets that are not the answer, after which UDP is given up: somebody is guessing.
const MAX_FORGERIES: u32 = 32;

/// How an upstream is asked.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Not over UDP at all.
    pub tcp: bool,
    pub recursion_desired: bool,
    /// For the whole exchange.
    pub patience: Duration,
}

/// Why there is no answer.
#[derive(thiserror::Error, Debug)]
pub enum Failure {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Network(#[from] io::Error),
    /// The upstream was not asked, and nothing is known of it.
    #[error("no socket to ask from: {0}")]
    Local(#[source] io::Error),
    #[error("an answer that cannot be read")]
    Malformed,
    #[error("an error without a question, code {0}")]
    Refused(u8),
}

/// An answer, and how many packets came that were none.
#[derive(Debug)]
pub struct Exchange {
    pub result: Result<Box<Reply>, Failure>,
    pub forgeries: u32,
}

// === impl Failure ===

impl Failure {
    /// Whether it may be the upstream's fault that it was not heard of.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout | Self::Network(_))
    }

    /// That no memory is left is as local as that there is no socket. The port is there already: that there is no address to
    /// ask from means that this upstream cannot be reached.
    fn of_udp_connect(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Self::Local(error),
            _ => Self::Network(error),
        }
    }

    /// As over UDP, but the port is only taken now, and there may be none.
    fn of_tcp_connect(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => Self::Local(error),
            _ => Self::of_udp_connect(error),
        }
    }
}

pub async fn exchange(upstream: SocketAddr, question: &Question, manner: Manner) -> Exchange {
    let deadline = Instant::now() + manner.patience;
    let mut packet = Vec::with_capacity(512);
    write_query(question, manner.recursion_desired, &rand::random::<[u8; RANDOM]>(), &mut packet);
    let mut forgeries = 0;
    let in_time = timeout_at(deadline, async {
        if !manner.tcp {
            match over_udp(upstream, question, &packet, &mut forgeries).await? {
                Verdict::Answer(reply) => return Ok(reply),
                Verdict::Refused(rcode) => return Err(Failure::Refused(rcode)),
                Verdict::Malformed => return Err(Failure::Malformed),
                Verdict::Casing | Verdict::Truncated | Verdict::Ignore => {}
            }
        }
        over_tcp(upstream, question, &packet).await
    });
    let result = in_time.await.unwrap_or(Err(Failure::Timeout));
    Exchange { result, forgeries }
}

/// [`Verdict::Ignore`] when too many packets came that were not the answer.
async fn over_udp(upstream: SocketAddr, question: &Question, packet: &[u8], forgeries: &mut u32) -> Result<Verdict, Failure> {
    // Port 0: the kernel takes one at random, and once connected lets in what comes from the upstream alone.
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(Failure::Local)?;
    socket.connect(upstream).await.map_err(Failure::of_udp_connect)?;
    socket.send(packet).await?;
    let mut received = [0; MAX_PACKET];
    while *forgeries < MAX_FORGERIES {
        let length = socket.recv(&mut received).await?;
        match judge(packet, &received[..length], question, false) {
            Verdict::Ignore => *forgeries += 1,
            verdict => return Ok(verdict),
        }
    }
    Ok(Verdict::Ignore)
}

async fn over_tcp(upstream: SocketAddr, question: &Question, packet: &[u8]) -> Result<Box<Reply>, Failure> {
    let socket = if upstream.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let mut stream = socket.map_err(Failure::Local)?.connect(upstream).await.map_err(Failure::of_tcp_connect)?;
    let message = [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut received = vec![0; length.into()];
    stream.read_exact(&mut received).await?;
    match judge(packet, &received, question, true) {
        Verdict::Answer(reply) => Ok(reply),
        Verdict::Refused(rcode) => Err(Failure::Refused(rcode)),
        _ => Err(Failure::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_here_is_not_the_upstreams_fault() {
        let local =
            |failure: fn(io::Error) -> Failure, code| matches!(failure(io::Error::from_raw_os_error(code)), Failure::Local(_));
        for (code, udp, tcp) in [
            (libc::EAGAIN, true, true),
            (libc::ENOBUFS, true, true),
            (libc::ENOMEM, true, true),
            (libc::EADDRNOTAVAIL, false, true),
            (libc::EADDRINUSE, false, true),
            (libc::ENETUNREACH, false, false),
            (libc::ECONNREFUSED, false, false),
        ] {
            let found = (local(Failure::of_udp_connect, code), local(Failure::of_tcp_connect, code));
            assert_eq!(found, (udp, tcp), "{}", io::Error::from_raw_os_error(code));
        }
    }
}
