//! The HTTP probe: a bounded load of GET requests against `thalweg echo`, and who answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::HttpArgs;

/// Longest body that an answer may have, in bytes.
const BODY_LIMIT: u64 = 1 << 20;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HttpReport {
    pub ok: u64,
    pub failed: u64,
    /// How often each error was met.
    pub errors: BTreeMap<String, u64>,
    /// Answers by pod, and by node.
    pub pods: BTreeMap<String, u64>,
    pub nodes: BTreeMap<String, u64>,
    /// Client addresses as the servers saw them, without ports.
    pub clients: BTreeMap<String, u64>,
    pub latency: Latency,
    pub seconds: f64,
}

/// Of whole requests, connect included, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// What `thalweg echo` answers.
#[derive(Deserialize)]
struct Answer {
    pod: String,
    node: String,
    client: SocketAddr,
}

struct Connection {
    reader: BufReader<TcpStream>,
}

#[derive(Default)]
struct Worker {
    report: HttpReport,
    micros: Vec<u64>,
}

pub fn run(args: HttpArgs, stop: Arc<AtomicBool>) -> Result<HttpReport> {
    ensure!((1..=256).contains(&args.concurrency), "--concurrency {}: 1 to 256", args.concurrency);
    let started = Instant::now();
    let left = AtomicU64::new(args.count.unwrap_or(u64::MAX));
    let workers: Vec<Worker> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..args.concurrency).map(|_| scope.spawn(|| Worker::run(&args, &left, &stop))).collect();
        spawned.into_iter().map(|worker| worker.join().unwrap_or_default()).collect()
    });
    let mut report = HttpReport::default();
    let mut micros = Vec::new();
    for worker in workers {
        report.add(worker.report);
        micros.extend(worker.micros);
    }
    micros.sort_unstable();
    let at = |share: usize| micros.get((micros.len() * share / 100).min(micros.len().saturating_sub(1))).copied().unwrap_or(0);
    report.latency = Latency { p50: at(50), p99: at(99), max: at(100) };
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

// === impl Worker ===

impl Worker {
    fn run(args: &HttpArgs, left: &AtomicU64, stop: &AtomicBool) -> Self {
        let mut worker = Self::default();
        let mut connection = None;
        // With a count the standard input does not matter: a caller may have none.
        while !(args.count.is_none() && stop.load(Ordering::Relaxed)) {
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
                break;
            }
            let started = Instant::now();
            match request(args, &mut connection) {
                Ok(answer) => {
                    worker.report.ok += 1;
                    *worker.report.pods.entry(answer.pod).or_default() += 1;
                    *worker.report.nodes.entry(answer.node).or_default() += 1;
                    *worker.report.clients.entry(answer.client.ip().to_string()).or_default() += 1;
                    worker.micros.push(super::micros(started));
                }
                Err(error) => {
                    connection = None;
                    worker.report.failed += 1;
                    *worker.report.errors.entry(format!("{error:#}")).or_default() += 1;
                }
            }
            if !args.keep_alive {
                connection = None;
            }
            if args.pause > 0 {
                std::thread::sleep(Duration::from_millis(args.pause));
            }
        }
        worker
    }
}

// === impl HttpReport ===

impl HttpReport {
    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        for (into, from) in [
            (&mut self.errors, other.errors),
            (&mut self.pods, other.pods),
            (&mut self.nodes, other.nodes),
            (&mut self.clients, other.clients),
        ] {
            for (key, count) in from {
                *into.entry(key).or_default() += count;
            }
        }
    }
}

fn request(args: &HttpArgs, slot: &mut Option<Connection>) -> Result<Answer> {
    let timeout = Duration::from_millis(args.timeout);
    let connection = match slot {
        Some(connection) => connection,
        None => slot.insert(Connection::open(&args.target, timeout)?),
    };
    let keep = if args.keep_alive { "keep-alive" } else { "close" };
    let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {keep}\r\n\r\n", args.path, args.target);
    connection.reader.get_mut().write_all(head.as_bytes()).context("send")?;
    let body = connection.read_answer().context("read")?;
    serde_json::from_slice(&body).context("the answer is not from thalweg echo")
}

// === impl Connection ===

impl Connection {
    fn open(target: &str, timeout: Duration) -> Result<Self> {
        let address = target.to_socket_addrs().context("resolve")?.next().context("resolve: no address")?;
        let stream = TcpStream::connect_timeout(&address, timeout).context("connect")?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    fn read_answer(&mut self) -> Result<Vec<u8>> {
        let mut length = None;
        let mut line = String::new();
        self.line(&mut line)?;
        if line.split(' ').nth(1) != Some("200") {
            bail!("status line {:?}", line.trim_end());
        }
        loop {
            self.line(&mut line)?;
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<u64>().context("content-length")?);
            }
        }
        let length = length.context("no content-length")?;
        ensure!(length <= BODY_LIMIT, "a body of {length} bytes");
        let mut body = vec![0; usize::try_from(length)?];
        self.reader.read_exact(&mut body)?;
        Ok(body)
    }

    fn line(&mut self, line: &mut String) -> Result<()> {
        line.clear();
        ensure!(self.reader.read_line(line)? > 0, "connection closed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn args(target: SocketAddr, count: u64) -> HttpArgs {
        HttpArgs {
            target: target.to_string(),
            path: "/".to_owned(),
            count: Some(count),
            concurrency: 2,
            pause: 0,
            timeout: 2000,
            keep_alive: false,
        }
    }

    #[test]
    fn answers_are_counted_by_pod_and_errors_by_text() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let target = listener.local_addr().expect("address");
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let mut stream = stream;
                let mut sink = [0; 512];
                let _ = stream.read(&mut sink);
                let body = format!(r#"{{"pod":"p{}","node":"n","client":"127.0.0.1:1"}}"#, number % 2);
                let status = if number == 0 { "503 Busy" } else { "200 OK" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            }
        });
        let report = run(args(target, 9), Arc::new(AtomicBool::new(true))).expect("run");
        assert_eq!((report.ok, report.failed), (8, 1));
        assert_eq!(report.pods.len(), 2);
        assert!(report.errors.keys().all(|error| error.contains("503")), "{:?}", report.errors);
    }

    #[test]
    fn a_closed_port_is_a_failure_that_says_refused() {
        let target = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let report = run(args(target, 1), Arc::new(AtomicBool::new(true))).expect("run");
        assert_eq!((report.ok, report.failed), (0, 1));
        assert!(report.errors.keys().all(|error| error.contains("refused")), "{:?}", report.errors);
    }
}
