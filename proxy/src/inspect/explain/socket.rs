//! The socket load balancer: what happens when a pod or the node itself dials.

use thalweg_abi::{FrontendFlags, NetnsFlags, Proto, Scope};
use thalweg_loader::Error;

use super::choice::{Choice, Client};
use super::{Case, Hook, Lookup, Origin, Ruling, Source, Target, Verdict, frontend_text};

const HOOK: Hook = Hook::Socket;
const REFUSED: Verdict = Verdict::Refused { hook: HOOK, by: "connect or sendto fails with ECONNREFUSED" };

// === impl Case ===

impl<L: Lookup> Case<'_, L> {
    /// `None`: the packet goes on as it was dialled, to tc.
    pub(super) fn socket(&mut self) -> Result<Option<Ruling>, Error> {
        if !self.facts.socket_lb {
            self.say(HOOK, "state", "socket load balancing is off: tc does all the work");
            return Ok(None);
        }
        if !matches!(self.question.protocol, Proto::TCP | Proto::UDP) {
            self.say(HOOK, "protocol", "only TCP and UDP are balanced at the socket: left to tc");
            return Ok(None);
        }
        if self.from == Origin::Pod && self.question.destination.is_loopback() {
            self.say(HOOK, "destination", "a pod's loopback is its own");
            return Ok(Some((Verdict::Untouched, "the packet never leaves the pod".to_owned())));
        }
        let key = self.key(Scope::INTERNAL);
        let (frontend, is_wildcard) = match (self.frontend(Scope::INTERNAL)?, self.wildcard()?) {
            (Some(frontend), _) => (frontend, false),
            (None, Some(wildcard)) => (wildcard, true),
            (None, None) => {
                self.say(HOOK, "frontend", "none has this destination: not a service's, as far as the socket is concerned");
                return Ok(None);
            }
        };
        let name = self.name(frontend.service)?;
        let found = match is_wildcard {
            true => format!("none; but {} is an address of {name}", key.vip),
            false => frontend_text(&key, &frontend, &name),
        };
        self.say(HOOK, "frontend", found);
        let Some(client) = self.socket_client()? else { return Ok(None) };
        if frontend.count == 0 {
            if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) {
                self.say(HOOK, "endpoints", "the policy allows none here, and that is for tc to drop");
                return Ok(None);
            }
            let because = match is_wildcard {
                true => format!("{name} has no such port"),
                false => format!("{name} has no endpoints"),
            };
            return Ok(Some((REFUSED, because)));
        }
        if !self.admits(HOOK, &frontend, client)? {
            self.say(HOOK, "source ranges", "left to tc, which knows the packet's own source");
            return Ok(None);
        }
        Ok(Some(match self.choose(HOOK, &frontend, client)? {
            Choice::Defect => (REFUSED, "the frontend's slots do not exist: a defect, please report it".to_owned()),
            Choice::Among(backends) => {
                let to = backends.into_iter().map(|address| Target { address, source: Source::Kept }).collect();
                let because =
                    format!("{} dials {name}: the socket connects to a backend, and packets need no translation", self.who());
                (Verdict::Translated { hook: HOOK, to }, because)
            }
        }))
    }

    /// `None`: its pod has left balancing to tc.
    fn socket_client(&mut self) -> Result<Option<Client>, Error> {
        let source = self.question.source;
        if self.from == Origin::Node {
            // The node is known by the one address that tc uses too.
            let own = self.facts.node.iter().find(|addr| addr.is_ipv4() == source.is_ipv4());
            return Ok(Some(own.map_or(Client::Unknown, |addr| Client::Known(*addr))));
        }
        match self.tables.netns(source)? {
            Some((_, netns)) if netns.flags.has(NetnsFlags::NO_SOCKET_LB) => {
                self.say(
                    HOOK,
                    "opt-out",
                    "the pod opted out (annotation thalweg.dev/socket-lb, or a sandboxed runtime): left to tc",
                );
                Ok(None)
            }
            Some(_) => Ok(Some(Client::Known(source))),
            None => {
                self.say(HOOK, "client", "the pod's network namespace is not listed: its sockets have no address here");
                Ok(Some(Client::Unknown))
            }
        }
    }

    fn who(&self) -> &'static str {
        if self.from == Origin::Node { "the node" } else { "the pod" }
    }
}
