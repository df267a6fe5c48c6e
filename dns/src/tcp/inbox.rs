//! What a stream has brought and has not been answered yet: bounded, however much the client sends.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest query. What clients ask is rarely above 100 octets; whoever announces more than this asks nothing that is
/// worth its memory.
const MAX_QUERY: usize = 4096;
/// Octets of the length before each message.
const PREFIX: usize = 2;
/// What a connection holds while nothing has come.
const ROOM: usize = 512;
/// What it holds at most: always more than the part of one message that is not there to its end.
const MOST: usize = 2 * MAX_QUERY;

pub struct Inbox {
    bytes: Vec<u8>,
    /// Where the first message begins that was not taken.
    at: usize,
}

// === impl Inbox ===

impl Default for Inbox {
    fn default() -> Self {
        Self { bytes: Vec::with_capacity(ROOM), at: 0 }
    }
}

impl Inbox {
    /// Reads what is there, as far as there is room; false: no more will come. Call it when [`Inbox::next`] has no more.
    /// Nothing is lost when it is dropped before its end.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn fill(&mut self, reader: impl AsyncRead + Unpin) -> io::Result<bool> {
        let room = MOST.saturating_sub(self.bytes.len()) as u64;
        Ok(reader.take(room).read_buf(&mut self.bytes).await? > 0)
    }

    /// The next message that is there to its end, without the length before it.
    ///
    /// # Errors
    /// When it announces more than a query has.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((prefix, rest)) = self.bytes[self.at..].split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length > MAX_QUERY {
            return Err(io::Error::other("a query that is too long"));
        }
        let packet = rest.get(..length).map(<[u8]>::to_vec);
        self.at += packet.as_ref().map_or(0, |packet| PREFIX + packet.len());
        Ok(packet)
    }

    /// Makes room of what was taken, once for many messages.
    pub fn settle(&mut self) {
        self.bytes.drain(..std::mem::take(&mut self.at));
        if self.bytes.is_empty() {
            self.bytes.shrink_to(ROOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn filled(mut stream: &[u8]) -> (Inbox, usize) {
        let mut inbox = Inbox::default();
        while inbox.bytes.len() < MOST && inbox.fill(&mut stream).await.expect("read") {}
        (inbox, stream.len())
    }

    #[tokio::test]
    async fn messages_are_taken_when_they_are_whole() {
        let (mut inbox, _) = filled(b"\0\x02ab\0\0\0\x03cd").await;
        assert_eq!(inbox.next().expect("short").as_deref(), Some(&b"ab"[..]));
        assert_eq!(inbox.next().expect("short").as_deref(), Some(&b""[..]));
        assert_eq!(inbox.next().expect("short"), None);
        inbox.settle();
        assert!(inbox.fill(&b"e"[..]).await.expect("read"));
        assert_eq!(inbox.next().expect("short").as_deref(), Some(&b"cde"[..]));
        assert_eq!(inbox.next().expect("short"), None);
        assert!(!inbox.fill(&b""[..]).await.expect("the end"));
    }

    #[tokio::test]
    async fn the_longest_query_fits_and_a_longer_one_is_known_by_its_length() {
        let longest = [&(MAX_QUERY as u16).to_be_bytes()[..], &[7; MAX_QUERY]].concat();
        assert_eq!(filled(&longest).await.0.next().expect("allowed"), Some(vec![7; MAX_QUERY]));
        assert!(filled(&(MAX_QUERY as u16 + 1).to_be_bytes()).await.0.next().is_err());
    }

    #[tokio::test]
    async fn what_a_client_sends_ahead_stays_with_the_kernel() {
        let (mut inbox, left) = filled(&b"\0\x02ab".repeat(MOST)).await;
        assert_eq!((inbox.bytes.len(), left), (MOST, 3 * MOST));
        assert!(inbox.bytes.capacity() <= MOST);
        while inbox.next().expect("short").is_some() {}
        inbox.settle();
        assert_eq!((inbox.bytes.len(), inbox.at), (0, 0));
        assert!(inbox.bytes.capacity() <= ROOM, "{}", inbox.bytes.capacity());
    }
}
