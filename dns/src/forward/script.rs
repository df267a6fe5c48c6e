//! For tests: a name server on loopback that does as it is told, also what no name server should.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

/// How often threads look whether the test is over.
const TICK: Duration = Duration::from_millis(20);

/// A query as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub packet: Vec<u8>,
    pub from: SocketAddr,
    pub tcp: bool,
    /// Counted from 0.
    pub number: usize,
}

/// Ends when it is dropped.
pub struct Script {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

type Answer = Arc<dyn Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync>;

// === impl Asked ===

impl Asked {
    pub fn message(&self) -> Message {
        Message::from_vec(&self.packet).expect("a query")
    }

    pub fn name(&self) -> String {
        self.message().queries[0].name().to_string()
    }

    pub fn lower_name(&self) -> String {
        self.name().to_ascii_lowercase()
    }

    pub fn id(&self) -> u16 {
        self.message().metadata.id
    }

    /// Whether it is a health check or a probe for loops.
    pub fn is_check(&self) -> bool {
        matches!(self.message().queries[0].query_type(), RecordType::NS | RecordType::HINFO)
    }

    /// An honest reply with this code and these addresses for the name that was asked.
    pub fn reply(&self, rcode: ResponseCode, ttl: u32, addresses: &[[u8; 4]]) -> Message {
        let mut message = self.message().into_response();
        message.metadata.response_code = rcode;
        let name = message.queries[0].name().clone();
        let record = |ip: &[u8; 4]| Record::from_rdata(name.clone(), ttl, RData::A(A::from(Ipv4Addr::from(*ip))));
        message.add_answers(addresses.iter().map(record));
        message
    }

    pub fn says(&self, last: u8) -> Vec<Vec<u8>> {
        vec![bytes(&self.reply(ResponseCode::NoError, 60, &[[192, 0, 2, last]]))]
    }

    pub fn fails(&self, rcode: ResponseCode) -> Vec<Vec<u8>> {
        vec![bytes(&self.reply(rcode, 0, &[]))]
    }
}

pub fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encoded")
}

// === impl Script ===

impl Script {
    /// `answer` gives the packets that are sent for a query, none of them to be silent.
    pub fn new(answer: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        // The same port for both, which somebody else may hold for one of them.
        let (udp, tcp) = (0..50)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                let tcp = TcpListener::bind(udp.local_addr().expect("an address")).ok()?;
                Some((udp, tcp))
            })
            .expect("a port that is free twice");
        let address = udp.local_addr().expect("an address");
        let mut script = Self { address, asked: Arc::default(), stop: Arc::default(), threads: Vec::new() };
        let answer: Answer = Arc::new(answer);
        udp.set_read_timeout(Some(TICK)).expect("a time-out");
        tcp.set_nonblocking(true).expect("not blocking");
        let (asked, stop, by_udp) = (script.asked.clone(), script.stop.clone(), answer.clone());
        script.threads.push(std::thread::spawn(move || serve_udp(&udp, &asked, &stop, &by_udp)));
        let (asked, stop) = (script.asked.clone(), script.stop.clone());
        script.threads.push(std::thread::spawn(move || serve_tcp(&tcp, &asked, &stop, &answer)));
        script
    }

    /// An address at which nobody listens.
    pub fn nobody() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("an address")
    }

    /// What was asked so far, apart from health checks and probes.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("lock").iter().filter(|asked| !asked.is_check()).cloned().collect()
    }

    pub fn checks(&self) -> usize {
        self.asked.lock().expect("lock").iter().filter(|asked| asked.is_check()).count()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn note(asked: &Mutex<Vec<Asked>>, packet: &[u8], from: SocketAddr, tcp: bool) -> Asked {
    let mut held = asked.lock().expect("lock");
    let asked = Asked { packet: packet.to_vec(), from, tcp, number: held.len() };
    held.push(asked.clone());
    asked
}

fn serve_udp(socket: &UdpSocket, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool, answer: &Answer) {
    let mut packet = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        for reply in answer(&note(asked, &packet[..length], from, false)) {
            let _sent = socket.send_to(&reply, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool, answer: &Answer) {
    while !stop.load(Ordering::Relaxed) {
        let (mut stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(TICK / 4);
                continue;
            }
            Err(_) => return,
        };
        let mut serve = || -> std::io::Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut packet = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut packet)?;
            for reply in answer(&note(asked, &packet, from, true)) {
                stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat())?;
            }
            Ok(())
        };
        let _served = serve();
    }
}
