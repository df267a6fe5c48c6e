//! The language of `kubectl exec` over a WebSocket: every binary frame begins with the number of its channel. Pure.

use http::HeaderMap;
use http::header::{HeaderName, SEC_WEBSOCKET_PROTOCOL};
use serde::Deserialize;
use serde_json::json;

use crate::session::{SessionRequest, Size};

pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const STDIN: u8 = 0;
const RESIZE: u8 = 4;
/// Followed by the number of a channel on which nothing more comes; version 5 only.
const CLOSE: u8 = 255;

/// The subprotocols, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    V5,
    V4,
}

/// What a client's frame says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Stdin(&'a [u8]),
    /// Nothing more comes on stdin.
    StdinEnds,
    Resize(Size),
    /// Nothing that concerns us.
    Other,
}

// === impl Protocol ===

impl Protocol {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }

    /// The best that the client offers.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let offered = || values(headers, SEC_WEBSOCKET_PROTOCOL);
        [Self::V5, Self::V4].into_iter().find(|protocol| offered().any(|word| word == protocol.name()))
    }
}

/// The words of a header that is a list, and may be there more than once.
pub(super) fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

// === impl Frame ===

impl<'a> Frame<'a> {
    pub(super) fn parse(protocol: Protocol, bytes: &'a [u8]) -> Self {
        match bytes.split_first() {
            Some((&STDIN, data)) => Self::Stdin(data),
            Some((&RESIZE, data)) => size(data).map_or(Self::Other, Self::Resize),
            Some((&CLOSE, &[STDIN])) if protocol == Protocol::V5 => Self::StdinEnds,
            _ => Self::Other,
        }
    }
}

fn size(json: &[u8]) -> Option<Size> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Wire {
        width: u16,
        height: u16,
    }
    let Wire { width, height } = serde_json::from_slice(json).ok()?;
    Some(Size { width, height })
}

/// The last word, on the error channel: a Status.
pub(super) fn ended(code: i32) -> String {
    let status = match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    };
    status.to_string()
}

/// The last word when there was no exit code.
pub(super) fn failed(why: &str) -> String {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: error executing command in container: {why}")})
    .to_string()
}

/// What the query asks for, as API servers write it to kubelets.
pub(super) fn request(query: &str) -> Result<SessionRequest, &'static str> {
    let mut request = SessionRequest::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let on = || matches!(value, "1" | "true");
        match key {
            "command" => request.command.push(decode(value).ok_or("a command is not UTF-8, percent-encoded")?),
            "input" => request.stdin = on(),
            "output" => request.stdout = on(),
            "error" => request.stderr = on(),
            "tty" => request.tty = on(),
            _ => {}
        }
    }
    // A terminal has no stderr of its own.
    request.stderr &= !request.tty;
    match request {
        SessionRequest { ref command, .. } if command.is_empty() => Err("a command must be given"),
        SessionRequest { stdin: false, stdout: false, stderr: false, .. } => {
            Err("at least one of the streams stdin, stdout and stderr must be asked for")
        }
        request => Ok(request),
    }
}

/// A value of a query, with `%xx` and `+` undone.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_protocol_in_common_is_taken() {
        let check = |lines: &[&str], expected: Option<Protocol>| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(SEC_WEBSOCKET_PROTOCOL, line.parse().expect("header"));
            }
            assert_eq!(Protocol::of(&headers), expected, "{lines:?}");
        };
        check(&["v4.channel.k8s.io, v5.channel.k8s.io"], Some(Protocol::V5));
        check(&["channel.k8s.io", "v4.channel.k8s.io"], Some(Protocol::V4));
        check(&["v4.base64.channel.k8s.io"], None);
        check(&[], None);
    }

    #[test]
    fn frames_begin_with_their_channel() {
        let check = |bytes: &[u8], expected: Frame<'_>| assert_eq!(Frame::parse(Protocol::V5, bytes), expected, "{bytes:?}");
        check(b"\0hello", Frame::Stdin(b"hello"));
        check(b"\0", Frame::Stdin(b""));
        check(b"\x04{\"Width\":80,\"Height\":24}", Frame::Resize(Size { width: 80, height: 24 }));
        check(b"\x04{\"Width\":80", Frame::Other);
        check(&[255, 0], Frame::StdinEnds);
        check(&[255, 1], Frame::Other);
        check(&[255], Frame::Other);
        check(b"", Frame::Other);
        assert_eq!(Frame::parse(Protocol::V4, &[255, 0]), Frame::Other);
    }

    #[test]
    fn queries_say_what_to_run() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let both = SessionRequest { stdout: true, stderr: true, ..SessionRequest::default() };
        let check = |query: &str, expected: Result<SessionRequest, &str>| assert_eq!(request(query), expected, "{query}");
        check(
            "command=sh&command=-c&command=echo+%22a%2Bb%22%20%26&output=1&error=1",
            Ok(SessionRequest { command: words(&["sh", "-c", "echo \"a+b\" &"]), ..both }),
        );
        let terminal = SessionRequest { command: words(&["sh"]), stdin: true, stdout: true, stderr: false, tty: true };
        check("command=sh&input=1&output=1&error=1&tty=true", Ok(terminal));
        check("output=1", Err("a command must be given"));
        check("command=sh&output=0", Err("at least one of the streams stdin, stdout and stderr must be asked for"));
        check("command=%zz&output=1", Err("a command is not UTF-8, percent-encoded"));
    }

    #[test]
    fn the_last_word_is_a_status() {
        let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        assert_eq!(parse(ended(0))["status"], "Success");
        let status = parse(ended(3));
        assert_eq!((&status["reason"], &status["details"]["causes"][0]["message"]), (&"NonZeroExitCode".into(), &"3".into()));
        assert!(parse(failed("no luck"))["message"].as_str().expect("text").ends_with("in container: no luck"));
    }
}
