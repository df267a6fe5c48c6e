//! DNS queries over UDP from one socket, so many outstanding at any time, as fast as they are answered.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::rate::{RateReport, histogram, limit};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(500);
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
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut histogram, mut lost, mut wrong, mut answers) = (histogram()?, 0, 0, 0);
    let mut window = Window { sent: vec![None; usize::from(u16::MAX) + 1], open: 0, next: 0 };
    let mut turn = 0;
    let mut buffer = [0; 2048];
    let started = Instant::now();
    while started.elapsed() < limit {
        while window.open < args.outstanding {
            let query = &mut queries[turn];
            turn = (turn + 1) % args.names as usize;
            query[..2].copy_from_slice(&window.send().to_be_bytes());
            socket.send(query).with_context(|| format!("send to {}", args.server))?;
        }
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(took) = window.answered(&buffer[..length]) {
                    histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                    answers += 1;
                    wrong += u64::from(!is_right(&buffer[..length], args.missing));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => lost += window.give_up(),
            Err(error) => return Err(error).with_context(|| format!("no answer from {}", args.server)),
        }
    }
    let latency = histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    Ok(DnsLoadReport { rate: RateReport::new(answers, started.elapsed(), latency), lost, wrong })
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
    /// The id of the next query.
    fn send(&mut self) -> u16 {
        // One that is under way for long is not used again.
        while self.sent[usize::from(self.next)].is_some() {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.sent[usize::from(id)] = Some(Instant::now());
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

    /// Nothing came for as long as one is patient. How many were under way.
    fn give_up(&mut self) -> u64 {
        let lost = self.open;
        self.sent.iter_mut().for_each(|sent| *sent = None);
        self.open = 0;
        lost.into()
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
                socket.send_to(&bytes, client).expect("answer");
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
    fn questions_are_as_the_protocol_has_them() {
        let bytes = query("a.bc.").expect("query");
        assert_eq!(bytes[HEADER..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert!(query("a..b").is_err() && query(&"x".repeat(64)).is_err() && query(&"abc.".repeat(70)).is_err());
    }
}
