//! `thalweg explain`: what becomes of one packet, and why, by the rules of the kernel programs over the tables that they
//! read. Pure but for the look-ups ([`Lookup`]).
//!
//! The order is that of the data path: an entry of CONNTRACK decides for a flow that is under way; then the socket load
//! balancer, for pods and the node itself; then tc. `socket` and `tc` follow the programs of the same names, `choice` the
//! rules that both share.

mod choice;
mod lookup;
mod question;
mod socket;
mod tc;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use thalweg_abi::{Be16, Frontend, FrontendFlags, Proto, Scope, Tuple};
use thalweg_loader::Error;

pub use lookup::{AnyEntry, AnyTuple, Lookup};
pub use question::{Origin, Question, Unclear};

use super::{EndpointRow, protocol};
use crate::plan::Key;

/// Candidates that are written out; of more, only how many.
const SHOWN: usize = 10;

/// What the tables do not say of a node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// Addresses of the node's own network namespace, but loopback. The first of a family is what tc translates sources to.
    pub node: Vec<IpAddr>,
    pub socket_lb: bool,
}

/// Where the data path meets a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// The control group's programs, when a socket connects or sends.
    Socket,
    /// The programs on links.
    Tc,
}

/// One thing that was looked at, and what was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// `None`: before any hook.
    pub hook: Option<Hook>,
    pub topic: &'static str,
    pub finding: String,
}

/// What becomes of a packet's source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Kept,
    /// It becomes the node's, so that the answer comes back through it.
    Node,
    /// It becomes the service's: a pod that reaches itself.
    Service,
    /// The address stays, the port becomes another.
    Port,
}

/// A backend that a packet may go to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Target {
    pub address: SocketAddr,
    pub source: Source,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// To one of these, with the same chance for each.
    Translated {
        hook: Hook,
        to: Vec<Target>,
    },
    /// A backend's answer: it comes from the address that the client dialled.
    TranslatedBack {
        hook: Hook,
        source: SocketAddr,
        to: SocketAddr,
    },
    Refused {
        hook: Hook,
        by: &'static str,
    },
    /// `reason` as in `thalweg drops`.
    Dropped {
        hook: Hook,
        reason: &'static str,
    },
    /// On its way as it is.
    Untouched,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    pub packet: String,
    pub from: Origin,
    pub steps: Vec<Step>,
    /// The backends of the frontend that was found.
    pub candidates: Vec<EndpointRow>,
    #[serde(flatten)]
    pub verdict: Verdict,
    pub because: String,
}

/// A verdict and the reason for it.
type Ruling = (Verdict, String);

/// One question on its way through the data path.
struct Case<'a, L> {
    tables: &'a L,
    facts: &'a Facts,
    question: &'a Question,
    now: u32,
    from: Origin,
    steps: Vec<Step>,
    candidates: Vec<EndpointRow>,
}

/// Follows a packet. `now`: seconds since boot, the clock of the tables.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses a look-up.
pub fn explain(tables: &impl Lookup, facts: &Facts, question: &Question, now: u32) -> Result<Explanation, Error> {
    let from = Origin::Outside;
    let mut case = Case { tables, facts, question, now, from, steps: Vec::new(), candidates: Vec::new() };
    case.from = case.origin()?;
    let (verdict, because) = case.follow()?;
    Ok(Explanation {
        packet: question.to_string(),
        from: case.from,
        steps: case.steps,
        candidates: case.candidates,
        verdict,
        because,
    })
}

// === impl Case ===

impl<L: Lookup> Case<'_, L> {
    fn follow(&mut self) -> Result<Ruling, Error> {
        if let Some(ruling) = self.tracked()? {
            return Ok(ruling);
        }
        if self.from != Origin::Outside
            && let Some(ruling) = self.socket()?
        {
            return Ok(ruling);
        }
        match self.from {
            Origin::Node => self.leave_node(),
            Origin::Pod | Origin::Outside => self.tc(),
        }
    }

    fn say(&mut self, hook: impl Into<Option<Hook>>, topic: &'static str, finding: impl Into<String>) {
        self.steps.push(Step { hook: hook.into(), topic, finding: finding.into() });
    }

    /// Where the packet comes from, as said or as the source address tells.
    fn origin(&mut self) -> Result<Origin, Error> {
        let source = self.question.source;
        let (found, why) = if source.is_loopback() || self.facts.node.contains(&source) {
            (Origin::Node, "an address of this node")
        } else if self.tables.is_local_pod(source)? {
            (Origin::Pod, "a pod of this node")
        } else if self.tables.netns(source)?.is_some() {
            (Origin::Pod, "a pod of this node, whose link is another program's")
        } else {
            (Origin::Outside, "neither a pod of this node nor the node itself: it comes in by the uplink")
        };
        let from = self.question.from.unwrap_or(found);
        if from == found {
            self.say(None, "source", format!("{source} is {why}"));
        } else {
            let said = match from {
                Origin::Pod => "a pod of this node",
                Origin::Node => "the node itself",
                Origin::Outside => "outside",
            };
            self.say(None, "source", format!("taken as {said}, as you said, though {source} is {why}"));
        }
        Ok(from)
    }

    fn key(&self, scope: Scope) -> Key {
        let Question { destination: vip, port, protocol, .. } = *self.question;
        Key { vip, port: port.unwrap_or_default(), protocol, scope }
    }

    /// The frontend of the packet's destination.
    fn frontend(&self, scope: Scope) -> Result<Option<Frontend>, Error> {
        self.tables.frontend(&self.key(scope))
    }

    /// Whether the address is services', whatever the port.
    fn wildcard(&self) -> Result<Option<Frontend>, Error> {
        let key = Key { vip: self.question.destination, port: 0, protocol: Proto::ANY, scope: Scope::INTERNAL };
        Ok(self.tables.frontend(&key)?.filter(|frontend| frontend.flags.has(FrontendFlags::WILDCARD)))
    }

    fn tuple(&self, source_port: u16) -> AnyTuple {
        let Question { source, destination, port, protocol: proto, .. } = *self.question;
        Tuple {
            src: source.into(),
            dst: destination.into(),
            sport: Be16::from_host(source_port),
            dport: Be16::from_host(port.unwrap_or_default()),
            proto,
            pad: [0; 3],
        }
    }

    fn name(&self, service: u32) -> Result<String, Error> {
        Ok(self.tables.service(service)?.unwrap_or_else(|| format!("#{service}")))
    }
}

// === impl Explanation ===

impl Explanation {
    /// For people: the steps, numbered, and the verdict.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n", self.packet);
        for (number, step) in self.steps.iter().enumerate() {
            let hook = match step.hook {
                None => "",
                Some(Hook::Socket) => "socket",
                Some(Hook::Tc) => "tc",
            };
            let _ = writeln!(text, "{:>3}  {hook:<6}  {:<14}  {}", number + 1, step.topic, step.finding);
        }
        let _ = write!(text, "\nverdict: {}\nbecause: {}\n", self.verdict, self.because);
        text
    }
}

// === impl Verdict ===

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |hook: &Hook| match hook {
            Hook::Socket => "at the socket",
            Hook::Tc => "by tc",
        };
        match self {
            Self::Translated { hook, to } => {
                write!(f, "translated {} to {}", at(hook), if to.len() > 1 { "one of " } else { "" })?;
                for (index, target) in to.iter().take(SHOWN).enumerate() {
                    let source = match target.source {
                        Source::Kept => "",
                        Source::Node => " (from the node's address)",
                        Source::Service => " (from the service's address)",
                        Source::Port => " (from another port)",
                    };
                    write!(f, "{}{}{source}", if index == 0 { "" } else { ", " }, target.address)?;
                }
                match to.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::TranslatedBack { hook, source, to } => write!(f, "translated back {}: from {source} to {to}", at(hook)),
            Self::Refused { hook, by } => write!(f, "refused {}: {by}", at(hook)),
            Self::Dropped { hook, reason } => write!(f, "dropped {}: {reason}", at(hook)),
            Self::Untouched => f.write_str("passes untouched"),
        }
    }
}

/// What a frontend is called in a finding.
fn frontend_text(key: &Key, frontend: &Frontend, name: &str) -> String {
    let from = if key.scope == Scope::EXTERNAL { "outside" } else { "inside" };
    let at = SocketAddr::new(key.vip, key.port);
    let mut text = format!("{name}: frontend {at}/{} for {from}, generation {}", protocol(key.protocol), frontend.generation);
    let flags = frontend.flags;
    for (has, words) in [
        (flags.has(FrontendFlags::NODE_PORT), "a NodePort"),
        (flags.has(FrontendFlags::LOCAL_SET), "only endpoints of this node (a Local policy)"),
        (flags.has(FrontendFlags::LOCAL_ONLY), "sources are kept"),
        (flags.has(FrontendFlags::CHECK_SOURCE), "source ranges"),
        (frontend.affinity_seconds != 0, "affinity"),
    ] {
        if has {
            let _ = write!(text, ", {words}");
        }
    }
    text
}
