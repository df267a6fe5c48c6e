//! Rules that have a name asked under another, and TTLs changed; and the way back.

use std::borrow::Cow;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, Record};
use regex::Regex;

use crate::corefile::{NameAnswer, Pattern, Rewrite, RewriteRule};
use crate::forward::decode_name;
use crate::name;
use crate::query::{HEADER, Query, Transport};

pub struct Rules(Vec<Rewrite>);

/// A query as it is to be asked, and how its answer becomes the client's.
#[derive(Debug)]
pub struct Rewritten {
    /// What is asked instead.
    pub packet: Vec<u8>,
    /// The client's.
    original: Vec<u8>,
    transport: Transport,
    /// The largest reply over UDP, in octets.
    max_udp: usize,
    /// Owners of records: what they are called here, and what the client is told.
    owners: Vec<(Regex, String)>,
    ttl: Option<(u32, u32)>,
}

// === impl Rules ===

impl Rules {
    pub fn new(rules: &[Rewrite]) -> Self {
        Self(rules.to_vec())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn apply(&self, query: &Query<'_>, max_udp: usize) -> Option<Rewritten> {
        let mut text = name::display(query.name.wire());
        let (mut owners, mut ttl, mut applied) = (Vec::new(), None, false);
        for rule in &self.0 {
            match &rule.rule {
                RewriteRule::Name { from, to, answers } => {
                    // A name that cannot be leaves the query as it was.
                    let Some(fresh) = replace(from, to, &text).filter(|fresh| name::encode(fresh).is_some()) else { continue };
                    text = if fresh.ends_with('.') { fresh } else { fresh + "." };
                    owners.extend(answers.iter().filter_map(|answer| match answer {
                        NameAnswer::Auto => None,
                        NameAnswer::Name { from, to } => Some((from.clone(), to.clone())),
                    }));
                }
                RewriteRule::Ttl { of, least, most } => {
                    if !matches(of, &text) {
                        continue;
                    }
                    ttl = Some((*least, *most));
                }
            }
            applied = true;
            if !rule.go_on {
                break;
            }
        }
        if !applied {
            return None;
        }
        let wire = name::encode(&text)?;
        let original = query.packet();
        let end = HEADER + query.name.wire().len();
        let packet = [&original[..HEADER], &wire, &original[end..]].concat();
        Some(Rewritten { packet, original: original.to_vec(), transport: query.transport, max_udp, owners, ttl })
    }
}

// === impl Rewritten ===

impl Rewritten {
    /// The answer under the client's own name; `None` when the reply is none.
    pub fn restore(&self, reply: &[u8]) -> Option<Vec<u8>> {
        let query = Query::parse(&self.original, self.transport).ok()?.bounded(self.max_udp);
        let mut message = Message::from_vec(reply).ok()?;
        let asked = message.queries.first()?.name().clone();
        // With the client's casing.
        let own = decode_name(&query.question()[..query.name.wire().len()])?;
        message.queries.iter_mut().for_each(|question| {
            question.set_name(own.clone());
        });
        let restored = |mut record: Record| {
            if record.name == asked {
                record.name = own.clone();
            } else if let Some(name) = self.owner(&record.name) {
                record.name = name;
            }
            if let Some((least, most)) = self.ttl {
                record.ttl = record.ttl.clamp(least, most);
            }
            record
        };
        message.answers = std::mem::take(&mut message.answers).into_iter().map(restored).collect();
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= query.limit() { Some(bytes) } else { message.truncate().to_vec().ok() }
    }

    fn owner(&self, name: &Name) -> Option<Name> {
        let text = name.to_ascii().to_ascii_lowercase();
        let (from, to) = self.owners.iter().find(|(from, _)| from.is_match(&text))?;
        decode_name(&name::encode(&expanded(from, to, &text)?)?)
    }
}

fn matches(pattern: &Pattern, text: &str) -> bool {
    match pattern {
        Pattern::Exact(exact) => text == exact,
        Pattern::Prefix(prefix) => text.starts_with(prefix),
        Pattern::Suffix(suffix) => text.ends_with(suffix),
        Pattern::Substring(part) => text.contains(part),
        Pattern::Regex(regex) => regex.is_match(text),
    }
}

/// The name that a rule makes of one that it is for.
fn replace(from: &Pattern, to: &str, text: &str) -> Option<String> {
    match from {
        Pattern::Exact(exact) => (text == exact).then(|| to.to_owned()),
        Pattern::Prefix(prefix) => text.strip_prefix(prefix.as_str()).map(|rest| format!("{to}{rest}")),
        Pattern::Suffix(suffix) => text.strip_suffix(suffix.as_str()).map(|rest| format!("{rest}{to}")),
        Pattern::Substring(part) => text.contains(part.as_str()).then(|| text.replace(part.as_str(), to)),
        Pattern::Regex(regex) => expanded(regex, to, text),
    }
}

/// `{1}` in `to` stands for what the first parentheses matched; the final dot of the name may be matched or not.
fn expanded(regex: &Regex, to: &str, text: &str) -> Option<String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let (captures, _) = [text, bare].into_iter().find_map(|text| Some((regex.captures(text)?, text)))?;
    let mut fresh = Cow::Borrowed(to);
    for (index, group) in captures.iter().enumerate() {
        let mark = format!("{{{index}}}");
        if fresh.contains(&mark) {
            fresh = fresh.replace(&mark, group.map_or("", |group| group.as_str())).into();
        }
    }
    Some(fresh.into_owned())
}
