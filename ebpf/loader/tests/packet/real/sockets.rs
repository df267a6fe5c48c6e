//! Servers and clients: who answered, whom the server saw, and whether every byte came back.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use thalweg_lab::netns::Netns;

/// Bound of every wait. A working exchange takes milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// Echoes over TCP and UDP on one port of a namespace, after a line that says who it is and whom it sees.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

// === impl Server ===

impl Server {
    pub fn start(netns: &Netns, addr: IpAddr, port: u16, name: &str) -> Result<Self> {
        let (tcp, udp) = netns.enter(|| {
            let tcp = TcpListener::bind((addr, port))?;
            io::Result::Ok((tcp, UdpSocket::bind((addr, port))?))
        })??;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |serve: Box<dyn FnOnce(&AtomicBool) + Send>| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || serve(&stop))
        };
        let (tcp_name, udp_name) = (name.to_owned(), name.to_owned());
        let threads = vec![
            spawn(Box::new(move |stop| serve_tcp(&tcp, &tcp_name, stop))),
            spawn(Box::new(move |stop| serve_udp(&udp, &udp_name, stop))),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                let name = name.to_owned();
                // Ends by its own time-outs.
                thread::spawn(move || echo(stream, &format!("{name} {peer}\n")));
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

fn echo(mut stream: TcpStream, banner: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(banner.as_bytes())?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((read, peer)) = socket.recv_from(&mut buffer) {
            let answer = [format!("{name} {peer}\n").as_bytes(), &buffer[..read]].concat();
            let _ = socket.send_to(&answer, peer);
        }
    }
}

/// Who answered, and from which address it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub server: String,
    pub seen: SocketAddr,
    /// The client's own idea of itself.
    pub own: SocketAddr,
}

fn answer(line: &str, own: SocketAddr) -> Result<Answer> {
    let (server, seen) = line.trim().split_once(' ').with_context(|| format!("banner {line:?}"))?;
    Ok(Answer { server: server.to_owned(), seen: seen.parse()?, own })
}

/// Any address of the same family.
pub fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Connects, sends `bytes` bytes and checks that they all come back.
pub fn ask_tcp(netns: &Netns, to: SocketAddr, bytes: usize) -> Result<Answer> {
    let stream = connect(netns, to).with_context(|| format!("connect to {to}"))?;
    ask_on(&stream, to, bytes)
}

/// Sends `bytes` bytes on a fresh connection to `to` and checks that they all come back.
pub fn ask_on(mut stream: &TcpStream, to: SocketAddr, bytes: usize) -> Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let own = stream.local_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line).with_context(|| format!("banner of {to}"))?;
    let sent: Vec<u8> = (0..bytes).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect();
    let mut got = Vec::with_capacity(bytes);
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| {
            stream.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        reader.read_to_end(&mut got).with_context(|| format!("after {} of {bytes} bytes from {to}", got.len()))?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("write")
    })?;
    ensure!(got == sent, "{to} echoed {} bytes of {bytes}, or others", got.len());
    answer(&line, own)
}

/// Only the connection, for those that shall fail.
pub fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).map_err(io::Error::other)?
}

/// As [`connect`], from a port of the caller's choice, which other connections may have too.
pub fn connect_from(netns: &Netns, port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    netns.enter(|| connect_bound(port, to)).map_err(io::Error::other)?
}

#[expect(unsafe_code, reason = "the standard library connects no bound socket")]
fn connect_bound(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    fn address(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
        // SAFETY: integers only.
        let mut out: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        match addr {
            SocketAddr::V4(addr) => {
                // SAFETY: the storage has room for, and the alignment of, every address.
                let to = unsafe { &mut *(&raw mut out).cast::<libc::sockaddr_in>() };
                to.sin_family = libc::AF_INET as libc::sa_family_t;
                to.sin_port = addr.port().to_be();
                to.sin_addr.s_addr = u32::from(*addr.ip()).to_be();
                (out, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(addr) => {
                // SAFETY: as above.
                let to = unsafe { &mut *(&raw mut out).cast::<libc::sockaddr_in6>() };
                to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                to.sin6_port = addr.port().to_be();
                to.sin6_addr.s6_addr = addr.ip().octets();
                (out, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
    fn check(result: i32) -> io::Result<()> {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
    fn set<T>(socket: &OwnedFd, option: i32, value: &T) -> io::Result<()> {
        let value: *const T = value;
        // SAFETY: the value is valid for its size.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), size_of::<T>() as libc::socklen_t)
        })
    }
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    check(raw)?;
    // SAFETY: just opened, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    set(&socket, libc::SO_REUSEADDR, &1_i32)?;
    // Bounds the connect.
    set(&socket, libc::SO_SNDTIMEO, &libc::timeval { tv_sec: PATIENCE.as_secs().cast_signed(), tv_usec: 0 })?;
    let ((own, len), (to, _)) = (address(SocketAddr::new(any(to), port)), address(to));
    // SAFETY: both addresses are valid for the length given.
    unsafe {
        check(libc::bind(socket.as_raw_fd(), (&raw const own).cast(), len))?;
        check(libc::connect(socket.as_raw_fd(), (&raw const to).cast(), len))?;
    }
    Ok(TcpStream::from(socket))
}

/// One datagram there and back on a connected socket.
pub fn ask_udp(netns: &Netns, to: SocketAddr, payload: &[u8]) -> Result<Answer> {
    let socket = udp(netns, to)?;
    ask_again(&socket, payload).with_context(|| format!("from {to}"))
}

/// A socket connected to `to`.
pub fn udp(netns: &Netns, to: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.enter(|| {
        let socket = UdpSocket::bind((any(to), 0))?;
        socket.connect(to)?;
        io::Result::Ok(socket)
    })??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One more datagram on a socket.
pub fn ask_again(socket: &UdpSocket, payload: &[u8]) -> Result<Answer> {
    socket.send(payload)?;
    let mut buffer = [0; 4096];
    let read = socket.recv(&mut buffer)?;
    let split = buffer[..read].iter().position(|byte| *byte == b'\n').context("no banner")?;
    ensure!(&buffer[split + 1..read] == payload, "the payload came back changed");
    answer(std::str::from_utf8(&buffer[..split])?, socket.local_addr()?)
}
