//! From a call to a backend: what the frontends, the client and the source ranges say about it.

use aya_ebpf::programs::SockAddrContext;
use thalweg_abi::{Counter, Frontend, FrontendFlags, FrontendKey, Proto, Scope, Slot};

use super::{address::Address, call::Destination, client::Client, netns_cookie};
use crate::{config::NODE_NETNS, count::count, policy};

/// What is to be done with a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, or left to tc: it passes as it is.
    Pass,
    /// Ours, and there is nobody to answer.
    Refuse,
    /// Ours; the frontend's range is not empty, and the client is admitted.
    Serve,
}

/// Who asks for what. Only [`Verdict::Serve`] has a meaningful frontend and client (see [`Client`] for why they are
/// not inside of it).
pub struct Knock {
    pub verdict: Verdict,
    pub frontend: Frontend,
    pub client: Client,
}

#[inline(always)]
pub fn knock<A: Address>(ctx: &SockAddrContext, dialled: Destination<A>, proto: Proto) -> Knock {
    let foreign = Knock { verdict: Verdict::Pass, frontend: Frontend::default(), client: Client::default() };
    // A pod's loopback is its own; the node's has its NodePorts.
    if dialled.addr.is_loopback() && netns_cookie(ctx) != NODE_NETNS.load() {
        return foreign;
    }
    count(Counter::SockLookup);
    let key = FrontendKey { vip: dialled.addr, port: dialled.port, proto, scope: Scope::INTERNAL };
    let frontend = match A::frontend(&key) {
        Some(frontend) => *frontend,
        None => match A::frontend(&FrontendKey::wildcard(dialled.addr)) {
            Some(wildcard) => *wildcard,
            None => return foreign,
        },
    };
    let client = Client::of::<A>(ctx);
    Knock { verdict: judge(&frontend, &client), frontend, client }
}

#[inline(always)]
fn judge(frontend: &Frontend, client: &Client) -> Verdict {
    if client.opted_out {
        count(Counter::SockOptOut);
        return Verdict::Pass;
    }
    if frontend.count == 0 {
        // What a Local policy allows nobody is dropped, and that is for tc to do.
        return if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) { Verdict::Pass } else { Verdict::Refuse };
    }
    // tc knows the packet's own source, and drops whom the service does not admit.
    if policy::admits(frontend, client.address()) { Verdict::Serve } else { Verdict::Pass }
}

/// One slot of the range, for a new connection.
#[inline(always)]
pub fn choose(knock: &Knock, proto: Proto) -> Option<Slot> {
    policy::choose(&knock.frontend, Some(knock.client.identity), proto, policy::now())
}
