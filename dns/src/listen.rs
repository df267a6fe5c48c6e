//! Binds what is to be served: one TCP socket for each address and a UDP socket for each of its workers, on one port.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::server::{Error, Result};
use crate::sockets::{bind_tcp, bind_udp};

/// Ports that are tried when any will do: one that is free over TCP may be somebody else's over UDP.
const TRIES: usize = 50;

/// An address to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    pub address: SocketAddr,
    /// Nobody named this address: this machine was found to have it, which need not be so any more, or not yet (IPv6 looks
    /// for duplicates first). It is then left out.
    pub found: bool,
}

/// The sockets of one address.
pub struct Bound {
    /// With the port that was taken for port 0.
    pub address: SocketAddr,
    pub stream: TcpListener,
    pub datagrams: Vec<UdpSocket>,
}

// === impl Listen ===

impl Listen {
    /// An address that somebody wants served, by whatever name it has.
    pub fn named(address: SocketAddr) -> Self {
        Self { address, found: false }
    }

    pub fn found(address: SocketAddr) -> Self {
        Self { address, found: true }
    }
}

/// Threads for each of so many addresses when `wanted` are asked for; 0: one per processor, over all addresses together.
pub fn workers(wanted: usize, addresses: usize) -> usize {
    match wanted {
        0 => spread(std::thread::available_parallelism().map_or(1, Into::into), addresses),
        wanted => wanted,
    }
}

fn spread(processors: usize, addresses: usize) -> usize {
    processors.div_ceil(addresses.max(1)).max(1)
}

/// Binds every address, each over UDP as often as there are workers. Those that were found and are not there are left out.
///
/// # Errors
/// When one cannot be bound, or none is left.
pub fn bind_all(listen: &[Listen], workers: usize) -> Result<Vec<Bound>> {
    let mut bound = Vec::with_capacity(listen.len());
    let mut missing = Error::NoAddress;
    for &Listen { address, found } in listen {
        match bind(address, workers) {
            Ok(sockets) => bound.push(sockets),
            Err(error) if found && is_not_there(&error) => {
                tracing::warn!(%address, "not served: the address is not usable on this machine now");
                missing = error;
            }
            Err(error) => return Err(error),
        }
    }
    if bound.is_empty() { Err(missing) } else { Ok(bound) }
}

fn is_not_there(error: &Error) -> bool {
    matches!(error, Error::Bind { source, .. } if source.kind() == ErrorKind::AddrNotAvailable)
}

fn bind(address: SocketAddr, workers: usize) -> Result<Bound> {
    until_free(address, || bind_once(address, workers))
}

fn bind_once(address: SocketAddr, workers: usize) -> Result<Bound> {
    let fail = |transport| move |source| Error::Bind { address, transport, source };
    let stream = bind_tcp(address).map_err(fail("TCP"))?;
    let bound = stream.local_addr().map_err(fail("TCP"))?;
    let datagrams = (0..workers).map(|_| bind_udp(bound)).collect::<Result<_, _>>().map_err(fail("UDP"))?;
    Ok(Bound { address: bound, stream, datagrams })
}

/// Binds again as long as another port may be free over both transports.
fn until_free<B>(address: SocketAddr, mut bind: impl FnMut() -> Result<B>) -> Result<B> {
    for _ in 1..TRIES {
        match bind() {
            Err(Error::Bind { transport: "UDP", source, .. })
                if address.port() == 0 && source.kind() == ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// How often an address is bound that fails so for so many times.
    #[track_caller]
    fn check(listen: &str, transport: &'static str, kind: ErrorKind, failures: usize, expected: (usize, bool)) {
        let mut tries = 0;
        let bound = until_free(address(listen), || {
            tries += 1;
            if tries > failures {
                Ok(())
            } else {
                Err(Error::Bind { address: address(listen), transport, source: kind.into() })
            }
        });
        assert_eq!((tries, bound.is_ok()), expected);
    }

    #[test]
    fn another_port_is_taken_only_where_any_will_do() {
        check("127.0.0.1:0", "UDP", ErrorKind::AddrInUse, 0, (1, true));
        check("127.0.0.1:0", "UDP", ErrorKind::AddrInUse, 2, (3, true));
        check("127.0.0.1:0", "UDP", ErrorKind::AddrInUse, 49, (50, true));
        check("127.0.0.1:0", "UDP", ErrorKind::AddrInUse, usize::MAX, (50, false));
        check("127.0.0.1:53", "UDP", ErrorKind::AddrInUse, 1, (1, false));
        check("127.0.0.1:0", "TCP", ErrorKind::AddrInUse, 1, (1, false));
        check("127.0.0.1:0", "UDP", ErrorKind::PermissionDenied, 1, (1, false));
    }

    #[test]
    fn processors_are_spread_over_the_addresses() {
        for (processors, addresses, each) in [(8, 1, 8), (8, 2, 4), (8, 3, 3), (2, 300, 1), (1, 1, 1)] {
            assert_eq!(spread(processors, addresses), each, "{processors} over {addresses}");
        }
        assert_eq!(workers(3, 300), 3, "who says how many gets them");
    }

    #[test]
    fn an_address_that_is_gone_is_left_out_unless_somebody_named_it() {
        // 192.0.2.1 is for documentation: no machine has it.
        let [gone, here] = ["192.0.2.1:0", "127.0.0.1:0"].map(address);
        let served = |listen: &[Listen]| {
            let bound = bind_all(listen, 1);
            bound.map(|bound| bound.iter().map(|bound| bound.address.ip()).collect::<Vec<_>>())
        };
        assert_eq!(served(&[Listen::found(gone), Listen::named(here)]).expect("one is left"), [here.ip()]);
        assert!(matches!(served(&[Listen::named(gone), Listen::found(here)]), Err(error) if is_not_there(&error)));
        assert!(matches!(served(&[Listen::found(gone)]), Err(Error::Bind { address, .. }) if address == gone));
        assert!(matches!(served(&[]), Err(Error::NoAddress)));
        // Taken is not gone.
        let holder = UdpSocket::bind(here).and_then(|holder| Ok((holder.local_addr()?, holder)));
        let (taken, _holder) = holder.expect("a socket");
        assert!(served(&[Listen::found(taken), Listen::found(here)]).is_err());
    }

    #[test]
    fn all_sockets_of_an_address_have_one_port() {
        let bound = bind(address("127.0.0.1:0"), 2).expect("bound");
        let ports = bound.datagrams.iter().map(UdpSocket::local_addr).chain([bound.stream.local_addr()]);
        let ports: Vec<SocketAddr> = ports.map(|port| port.expect("an address")).collect();
        assert_eq!(ports, [bound.address; 3]);
        assert_ne!(bound.address.port(), 0);
    }
}
