//! The session probe: one socket that stays open while the world around it changes. It speaks once for each line on its
//! standard input, and prints one JSON line for each.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{micros, outcome};

/// Longest message, in bytes: the answer repeats it, and must fit into a datagram.
const MESSAGE_LIMIT: usize = 60_000;
const TIMEOUT: Duration = Duration::from_secs(2);

/// What kind of socket.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One connection to the line-wise echo.
    Tcp,
    /// A connected socket.
    Udp,
    /// A socket that names its peer with every datagram.
    UdpUnconnected,
}

#[derive(clap::Args, Clone, Debug)]
pub struct SessionArgs {
    pub kind: Kind,
    pub target: SocketAddr,
    /// Bytes of each message.
    #[arg(long, default_value_t = 16)]
    pub size: usize,
}

/// How one message fared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Said {
    /// `answered`, `refused`, `reset`, `timeout`, `closed`, or the error's text.
    pub outcome: String,
    /// Who answered.
    pub pod: Option<String>,
    /// The peer as getpeername or recvfrom tells it.
    pub peer: Option<SocketAddr>,
    pub micros: u64,
}

enum Socket {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
    Unconnected(UdpSocket),
}

#[derive(Deserialize)]
struct Answer {
    pod: String,
    message: String,
}

/// Speaks until the standard input ends.
///
/// # Errors
/// For a size that no message can have, and when the output is closed.
pub fn run(args: &SessionArgs) -> Result<()> {
    ensure!(args.size <= MESSAGE_LIMIT, "--size {}: at most {MESSAGE_LIMIT}", args.size);
    let message = "m".repeat(args.size);
    let mut socket = None;
    let mut stdout = std::io::stdout();
    for line in std::io::stdin().lines() {
        line.context("read the standard input")?;
        let started = Instant::now();
        let result = match &mut socket {
            Some(socket) => say(socket, args.target, &message),
            None => open(args).and_then(|opened| say(socket.insert(opened), args.target, &message)),
        };
        let (outcome, pod, peer) = match result {
            Ok((pod, peer)) => ("answered".to_owned(), Some(pod), peer),
            Err(error) => (word(&error), None, None),
        };
        // A program whose datagrams come to nothing dials again.
        if args.kind == Kind::Udp && outcome != "answered" {
            socket = None;
        }
        serde_json::to_writer(&mut stdout, &Said { outcome, pod, peer, micros: micros(started) })?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

fn word(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::ConnectionAborted => "aborted".to_owned(),
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => "closed".to_owned(),
        _ => outcome(error),
    }
}

fn open(args: &SessionArgs) -> std::io::Result<Socket> {
    let any = if args.target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let udp = || {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok::<_, std::io::Error>(socket)
    };
    Ok(match args.kind {
        Kind::Tcp => {
            let stream = TcpStream::connect_timeout(&args.target, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            Socket::Tcp(BufReader::new(stream))
        }
        Kind::Udp => {
            let socket = udp()?;
            socket.connect(args.target)?;
            Socket::Udp(socket)
        }
        Kind::UdpUnconnected => Socket::Unconnected(udp()?),
    })
}

fn say(socket: &mut Socket, target: SocketAddr, message: &str) -> std::io::Result<(String, Option<SocketAddr>)> {
    let mut buffer = vec![0; 2 * MESSAGE_LIMIT];
    let (bytes, peer) = match socket {
        Socket::Tcp(stream) => {
            let line = [message.as_bytes(), b"\n"].concat();
            stream.get_mut().write_all(&line)?;
            let mut answer = Vec::new();
            stream.by_ref().take(2 * MESSAGE_LIMIT as u64).read_until(b'\n', &mut answer)?;
            if answer.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            (answer, stream.get_ref().peer_addr().ok())
        }
        Socket::Udp(socket) => {
            socket.send(message.as_bytes())?;
            let length = socket.recv(&mut buffer)?;
            (buffer[..length].to_vec(), socket.peer_addr().ok())
        }
        Socket::Unconnected(socket) => {
            socket.send_to(message.as_bytes(), target)?;
            let (length, source) = socket.recv_from(&mut buffer)?;
            (buffer[..length].to_vec(), Some(source))
        }
    };
    let answer: Answer = serde_json::from_slice(&bytes)?;
    if answer.message != message {
        return Err(std::io::Error::other(format!("{} bytes of the message came back", answer.message.len())));
    }
    Ok((answer.pod, peer))
}
