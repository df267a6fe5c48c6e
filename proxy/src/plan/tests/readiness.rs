//! Readiness, termination, the fallback to those that serve while they terminate, and who keeps old flows.

super::cases! {
    "an unready endpoint is not chosen and keeps its connections": "vip 80/tcp", "80/tcp | 1.5 2.6!"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "nobody ready: refused": "vip 80/tcp", "80/tcp | 1.5! 2.6!" => "vip:80/tcp ->; draining 1.5:80 2.6:80";
    "terminating beside ready drains": "vip 80/tcp", "80/tcp | 1.5 2.6~" => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    // cilium#37613: the fallback serves from all that still serve.
    "terminating and nobody ready: the fallback": "vip 80/tcp", "80/tcp | 1.5~ 2.6~" => "vip:80/tcp -> 1.5:80 2.6:80";
    "the fallback is only to those that serve": "vip 80/tcp", "80/tcp | 1.5~ 2.6x 2.7!"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80 2.7:80";
    "one ready endpoint ends the fallback": "vip 80/tcp", "80/tcp | 1.5~ 2.6~ 2.7"
        => "vip:80/tcp -> 2.7:80; draining 1.5:80 2.6:80";
    "terminating and not serving: refused": "vip 80/tcp", "80/tcp | 1.5x" => "vip:80/tcp ->; draining 1.5:80";
    "ready while terminating is ready, as publishNotReadyAddresses has it": "vip 80/tcp", "80/tcp | 1.5+ 2.6!"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "ready while terminating stands before the fallback": "vip 80/tcp", "80/tcp | 1.5+ 2.6~"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "the fallback of UDP": "vip 53/udp", "53/udp | 1.5~ 2.6x" => "vip:53/udp -> 1.5:53";
    "the fallback of SCTP": "vip 9/sctp", "9/sctp | 1.5~ 2.6x" => "vip:9/sctp -> 1.5:9; draining 2.6:9";
    // cilium#37613: each policy falls back by itself.
    "the cluster set falls back, the local set does not": "vip 80/tcp internal-local", "80/tcp | 2.6~"
        => "vip:80/tcp local drop ->; draining 2.6:80";
    "the local set falls back although another node is ready": "vip 80/tcp internal-local", "80/tcp | 1.5~ 2.6"
        => "vip:80/tcp local -> 1.5:80; draining 2.6:80";
    "local ready stands before local terminating": "vip 80/tcp internal-local", "80/tcp | 1.5~ 1.6"
        => "vip:80/tcp local -> 1.6:80; draining 1.5:80";
    "the local fallback is only to those that serve": "vip 80/tcp internal-local", "80/tcp | 1.5x 1.6~"
        => "vip:80/tcp local -> 1.6:80; draining 1.5:80";
    "local and terminating without serving: drop": "vip 80/tcp internal-local", "80/tcp | 1.5x 2.6"
        => "vip:80/tcp local drop ->; draining 1.5:80 2.6:80";
    "both sets at once, each by its own fallback": "vip 80/tcp:30080 external-local", "80/tcp | 1.5~ 2.6"
        => "vip:80/tcp -> 2.6:80; node:30080/tcp nodeport 80 -> 2.6:80; node:30080/tcp ext nodeport 80 local -> 1.5:80";
    "the local set is ready while the cluster's other endpoint terminates": "vip 80/tcp:30080 external-local",
        "80/tcp | 1.5 2.6~"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 local -> 1.5:80;
            draining 2.6:80";
    "both sets fall back": "vip 80/tcp:30080 external-local", "80/tcp | 1.5~ 2.6~"
        => "vip:80/tcp -> 1.5:80 2.6:80; node:30080/tcp nodeport 80 -> 1.5:80 2.6:80;
            node:30080/tcp ext nodeport 80 local -> 1.5:80";
    // kubernetes#139628: nothing of a UDP service that is scaled to zero may hold on to its old flows.
    "UDP scaled to zero: refused, and nobody drains": "vip 53/udp", "53/udp | 1.5! 2.6x" => "vip:53/udp ->";
    "UDP with its slices gone: refused, and nobody drains": "vip 53/udp" => "vip:53/udp ->";
    "UDP moves away from what does not serve": "vip 53/udp", "53/udp | 1.5 2.6! 2.7~ 2.8x"
        => "vip:53/udp -> 1.5:53; draining 2.7:53";
    "TCP stays with what does not serve": "vip 80/tcp", "80/tcp | 1.5 2.6! 2.7~ 2.8x"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80 2.7:80 2.8:80";
    "SCTP stays with what does not serve": "vip 9/sctp", "9/sctp | 1.5 2.6! 2.8x" => "vip:9/sctp -> 1.5:9; draining 2.6:9 2.8:9";
    "UDP wins where TCP shares the port": "vip a=53/udp b=53/tcp", "a=53/udp b=53/tcp | 1.5 2.6! 2.7~"
        => "vip:53/udp -> 1.5:53; vip:53/tcp -> 1.5:53; draining 2.7:53";
    "TCP keeps its own port where UDP has another": "vip a=53/udp b=54/tcp", "a=53/udp b=54/tcp | 1.5 2.6!"
        => "vip:53/udp -> 1.5:53; vip:54/tcp -> 1.5:54; draining 2.6:54";
    "chosen for one port, it does not drain for another": "vip a=80/tcp b=81/tcp", "a=8080/tcp | 1.5", "b=8080/tcp | 1.5! 2.6"
        => "vip:80/tcp -> 1.5:8080; vip:81/tcp -> 2.6:8080";
    "IPv6: unready drains": "vip6 80/tcp", "80/tcp | 6.1.5 6.2.6!" => "vip6:80/tcp -> 6.1.5:80; draining 6.2.6:80";
    "IPv6: the fallback": "vip6 80/tcp", "80/tcp | 6.1.5~ 6.2.6!" => "vip6:80/tcp -> 6.1.5:80; draining 6.2.6:80";
    "IPv6: UDP scaled to zero": "vip6 53/udp", "53/udp | 6.1.5x" => "vip6:53/udp ->";
}
