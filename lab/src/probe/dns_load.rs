//! DNS queries over UDP from one socket, so many outstanding at any time, as fast as they are answered.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::rate::{RateReport, histogram, limit};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked for such while nothing comes.
const LOOK: Duration = Duration::from_millis(20);
const HEADER: usize = 12;
const NXDOMAIN: u8 = 3;

#[derive(clap::Args, Clone, Debug)]
pub struct DnsLoadArgs {
    pub server: SocketAddr,
    /// What is asked for, A; `{}` in it becomes a number below `--names`, one after another.
    #[arg(long)]
    pub name: String,
    #[arg(long, default_value_t = 1)]
    pub names: u32,
    /// Queries that are not answered yet.
    #[arg(long, default_value_t = 200)]
    pub outstanding: u16,
    #[arg(long, default_value_t = 1000)]
    pub millis: u64,
    /// The CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// The right answer is that there is no such name; otherwise an address.
    #[arg(long)]
    pub missing: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsLoadReport {
    /// Of the answers.
    pub rate: RateReport,
    /// Queries without an answer in half a second.
    pub lost: u64,
    /// Answers that said something else than expected.
    pub wrong: u64,
}

/// What is under way, by the id of the query.
struct Window {
    sent: Vec<Option<Instant>>,
    /// All that was sent, the oldest first; what was answered since is still among them.
    order: VecDeque<(u16, Instant)>,
    open: u16,
    next: u16,
}

/// Asks for `millis`.
///
/// # Errors
/// For a name that cannot be asked for, and when the server cannot be reached at all.
pub fn run(args: &DnsLoadArgs) -> Result<DnsLoadReport> {
    ensure!((1..=100_000).contains(&args.names), "--names {}: 1 to 100000", args.names);
    ensure!((1..=10_000).contains(&args.outstanding), "--outstanding {}: 1 to 10000", args.outstanding);
    let limit = limit(args.millis)?;
    let mut queries: Vec<Vec<u8>> =
        (0..args.names).map(|number| query(&args.name.replace("{}", &number.to_string()))).collect::<Result<_>>()?;
    let any = if args.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).context("open a UDP socket")?;
    socket.connect(args.server).with_context(|| format!("connect to {}", args.server))?;
    socket.set_read_timeout(Some(LOOK))?;
    let (mut histogram, mut lost, mut wrong, mut answers) = (histogram()?, 0, 0, 0);
    let mut window = Window::new();
    let mut turn = 0;
    let mut buffer = [0; 2048];
    let started = Instant::now();
    while started.elapsed() < limit {
        lost += window.expire(Instant::now());
        while window.open < args.outstanding {
            let query = &mut queries[turn];
            turn = (turn + 1) % args.names as usize;
            query[..2].copy_from_slice(&window.send().to_be_bytes());
            socket.send(query).with_context(|| format!("send to {}", args.server))?;
        }
        let Some(length) = receive(&socket, &mut buffer)? else { continue };
        if let Some(took) = window.answered(&buffer[..length]) {
            histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            answers += 1;
            wrong += u64::from(!is_right(&buffer[..length], args.missing));
        }
    }
    let took = started.elapsed();
    // What is still under way is no part of the rate, but it is lost if it does not come in its own time.
    while window.open > 0 {
        if let Some(length) = receive(&socket, &mut buffer)? {
            window.answered(&buffer[..length]);
        }
        lost += window.expire(Instant::now());
    }
    let latency = histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    Ok(DnsLoadReport { rate: RateReport::new(answers, took, latency), lost, wrong })
}

/// The length of what came; None when nothing did for a while.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => {
            let server = socket.peer_addr().map_or_else(|_| "the server".to_owned(), |server| server.to_string());
            Err(error).with_context(|| format!("no answer from {server}"))
        }
    }
}

/// A question for an address, with recursion desired as resolvers of programs send it; the id is left 0.
fn query(name: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        ensure!((1..=63).contains(&label.len()), "{name:?} is no name");
        bytes.push(u8::try_from(label.len())?);
        bytes.extend(label.as_bytes());
    }
    ensure!(bytes.len() <= HEADER + 254, "{name:?} is too long for a name");
    bytes.extend([0, 0, 1, 0, 1]);
    Ok(bytes)
}

/// Whether it is the kind of answer that was expected.
fn is_right(answer: &[u8], missing: bool) -> bool {
    let (Some(flags), Some(records)) = (answer.get(3), answer.get(6..8)) else { return false };
    let code = flags & 0x0f;
    if missing { code == NXDOMAIN } else { code == 0 && records != [0, 0] }
}

// === impl Window ===

impl Window {
    fn new() -> Self {
        Self { sent: vec![None; usize::from(u16::MAX) + 1], order: VecDeque::new(), open: 0, next: 0 }
    }

    /// The id of the next query.
    fn send(&mut self) -> u16 {
        // One that is under way for long is not used again.
        while self.sent[usize::from(self.next)].is_some() {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        let now = Instant::now();
        self.sent[usize::from(id)] = Some(now);
        self.order.push_back((id, now));
        self.open += 1;
        self.next = id.wrapping_add(1);
        id
    }

    /// How long it took; None for what nobody waits for.
    fn answered(&mut self, answer: &[u8]) -> Option<Duration> {
        let id = u16::from_be_bytes([*answer.first()?, *answer.get(1)?]);
        let sent = self.sent[usize::from(id)].take()?;
        self.open -= 1;
        Some(sent.elapsed())
    }

    /// How many have been under way for longer than one is patient: each by the time at which it was sent itself, whatever
    /// came for others meanwhile. Nobody waits for them any more.
    fn expire(&mut self, now: Instant) -> u64 {
        let mut lost = 0;
        while let Some((id, sent)) = self.order.front().copied() {
            let waiting = &mut self.sent[usize::from(id)];
            // Otherwise it was answered, and perhaps its id is another query's by now.
            if *waiting == Some(sent) {
                if now.saturating_duration_since(sent) < PATIENCE {
                    break;
                }
                *waiting = None;
                self.open -= 1;
                lost += 1;
            }
            self.order.pop_front();
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers `count` queries in the way of `answer`, then no more.
    fn served(count: usize, answer: fn(&mut Vec<u8>)) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = socket.local_addr().expect("address");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for _ in 0..count {
                let (length, client) = socket.recv_from(&mut buffer).expect("query");
                let mut bytes = buffer[..length].to_vec();
                answer(&mut bytes);
                // Emptied: not answered.
                if !bytes.is_empty() {
                    socket.send_to(&bytes, client).expect("answer");
                }
            }
            // Keeps the port, so that silence is silence.
            std::thread::sleep(Duration::from_secs(5));
        });
        address
    }

    fn args(server: SocketAddr, missing: bool) -> DnsLoadArgs {
        let name = "s{}.bench.svc.cluster.local".to_owned();
        DnsLoadArgs { server, name, names: 3, outstanding: 4, millis: 50, cpu: None, missing }
    }

    #[test]
    fn answers_are_counted_and_judged() {
        let good = |bytes: &mut Vec<u8>| bytes[7] = 1;
        let report = run(&args(served(100_000, good), false)).expect("run");
        assert!(report.rate.transactions > 0 && report.wrong == 0 && report.lost == 0, "{report:?}");
        let report = run(&args(served(100_000, good), true)).expect("run");
        assert_eq!(report.wrong, report.rate.transactions);
        let report = run(&args(served(100_000, |bytes| bytes[3] = NXDOMAIN), true)).expect("run");
        assert_eq!(report.wrong, 0);
    }

    #[test]
    fn silence_is_loss() {
        let args = DnsLoadArgs { millis: 600, ..args(served(2, |bytes| bytes[7] = 1), false) };
        let report = run(&args).expect("run");
        assert!(report.rate.transactions == 2 && report.lost >= 4, "{report:?}");
    }

    #[test]
    fn one_query_that_is_lost_among_many_answers_is_counted() {
        // Everything but s0 is answered.
        let without = |bytes: &mut Vec<u8>| match bytes[HEADER..].starts_with(b"\x02s0\x05") {
            true => bytes.clear(),
            false => bytes[7] = 1,
        };
        let report = run(&DnsLoadArgs { names: 1_000, ..args(served(1_000_000, without), false) }).expect("run");
        assert!(report.rate.transactions > 0 && report.lost >= 1, "{report:?}");
    }

    #[test]
    fn each_is_given_up_by_its_own_time() {
        let mut window = Window::new();
        let (first, second) = (window.send(), window.send());
        let sent = |window: &Window, id: u16| window.sent[usize::from(id)].expect("under way");
        let (soon, late) = (sent(&window, first), sent(&window, second) + PATIENCE);
        assert_eq!(window.expire(soon), 0);
        assert!(window.answered(&second.to_be_bytes()).is_some());
        assert_eq!((window.expire(late), window.open), (1, 0));
        assert!(window.answered(&first.to_be_bytes()).is_none(), "too late");
        assert_eq!(window.expire(late), 0);
    }

    #[test]
    fn questions_are_as_the_protocol_has_them() {
        let bytes = query("a.bc.").expect("query");
        assert_eq!(bytes[HEADER..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert!(query("a..b").is_err() && query(&"x".repeat(64)).is_err() && query(&"abc.".repeat(70)).is_err());
    }
}
