//! The DNS probe: one query over UDP or TCP, decoded by hickory-proto, which is not what encoded the answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use serde::{Deserialize, Serialize};

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DnsReport {
    /// `NoError`, `NXDomain`, … or `timeout`.
    pub rcode: String,
    /// `NAME TTL CLASS TYPE DATA` of each answer.
    pub answers: Vec<String>,
    pub authority: usize,
    pub truncated: bool,
    pub micros: u64,
}

pub fn query(name: &str, record: &str, server: SocketAddr, tcp: bool) -> Result<DnsReport> {
    let name = Name::from_str(name).with_context(|| format!("{name:?} is no domain name"))?;
    let record = RecordType::from_str(&record.to_ascii_uppercase()).with_context(|| format!("{record:?} is no record type"))?;
    let mut message = Message::new(std::process::id() as u16, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record));
    let wire = message.to_vec().context("encode the query")?;

    let started = Instant::now();
    let answer = if tcp { over_tcp(&wire, server) } else { over_udp(&wire, server) };
    let micros = super::micros(started);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let rcode = super::outcome(&error);
            return Ok(DnsReport { rcode, answers: Vec::new(), authority: 0, truncated: false, micros });
        }
    };
    let answer = Message::from_vec(&answer).context("decode the answer")?;
    ensure!(answer.metadata.id == message.metadata.id, "the answer carries another id");
    Ok(DnsReport {
        rcode: format!("{:?}", answer.metadata.response_code),
        answers: answer.answers.iter().map(ToString::to_string).collect(),
        authority: answer.authorities.len(),
        truncated: answer.metadata.truncation,
        micros,
    })
}

fn over_udp(wire: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // Connected, so that only the server's own answer is taken and a refusal is seen at once.
    socket.connect(server)?;
    socket.send(wire)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn over_tcp(wire: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(wire.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), wire].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
