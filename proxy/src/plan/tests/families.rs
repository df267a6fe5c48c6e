//! Dual stack: every family is served by itself, and only with a cluster IP of its own.

super::cases! {
    "IPv6 alone": "vip6 80/tcp", "8080/tcp | 6.1.5 6.2.6" => "vip6:80/tcp -> 6.1.5:8080 6.2.6:8080";
    "IPv6 without endpoints: refused": "vip6 80/tcp" => "vip6:80/tcp ->";
    "both families": "vip vip6 80/tcp", "80/tcp | 1.5 2.6", "80/tcp | 6.1.5 6.2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80; vip6:80/tcp -> 6.1.5:80 6.2.6:80";
    "the order of cluster IPs does not matter": "vip6 vip 80/tcp", "80/tcp | 1.5", "80/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:80; vip6:80/tcp -> 6.1.5:80";
    "endpoints in IPv4 alone: IPv6 refuses": "vip vip6 80/tcp", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; vip6:80/tcp ->";
    "endpoints in IPv6 alone: IPv4 refuses": "vip vip6 80/tcp", "80/tcp | 6.1.5" => "vip:80/tcp ->; vip6:80/tcp -> 6.1.5:80";
    "an endpoint of the other family is none: Local refuses": "vip vip6 80/tcp internal-local", "80/tcp | 1.5"
        => "vip:80/tcp local -> 1.5:80; vip6:80/tcp local ->";
    "Local drops in the family that has endpoints elsewhere": "vip vip6 80/tcp internal-local", "80/tcp | 2.6", "80/tcp | 6.1.5"
        => "vip:80/tcp local drop ->; vip6:80/tcp local -> 6.1.5:80; draining 2.6:80";
    "Local drops in one family and refuses in the other": "vip vip6 80/tcp internal-local", "80/tcp | 6.2.6"
        => "vip:80/tcp local ->; vip6:80/tcp local drop ->; draining 6.2.6:80";
    "the fallback is for each family by itself": "vip vip6 80/tcp", "80/tcp | 1.5~ 2.6", "80/tcp | 6.1.5~ 6.2.6!"
        => "vip:80/tcp -> 2.6:80; vip6:80/tcp -> 6.1.5:80; draining 1.5:80 6.2.6:80";
    "ready in one family, terminating in the other": "vip vip6 80/tcp", "80/tcp | 1.5", "80/tcp | 6.1.5~"
        => "vip:80/tcp -> 1.5:80; vip6:80/tcp -> 6.1.5:80";
    "an IPv6 slice of an IPv4 service is ignored": "vip 80/tcp", "80/tcp | 1.5", "80/tcp | 6.1.5 6.2.6!" => "vip:80/tcp -> 1.5:80";
    "an IPv4 slice of an IPv6 service is ignored": "vip6 80/tcp", "80/tcp | 1.5!", "80/tcp | 6.1.5" => "vip6:80/tcp -> 6.1.5:80";
    "an IPv6 external IP of an IPv4 service is not served": "vip 80/tcp external~lb6", "80/tcp | 1.5", "80/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:80";
    "an IPv4 load balancer of an IPv6 service is not served": "vip6 80/tcp lb~lb", "80/tcp | 6.1.5" => "vip6:80/tcp -> 6.1.5:80";
    "an IPv6 service has no node port on IPv4 addresses": "vip6 80/tcp:30080 view:no-addresses view:address~node", "80/tcp | 6.1.5"
        => "vip6:80/tcp -> 6.1.5:80";
    "external Local in both families": "vip vip6 80/tcp lb~lb lb~lb6 external-local", "80/tcp | 1.5 2.6", "80/tcp | 6.2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80; lb:80/tcp -> 1.5:80 2.6:80; lb:80/tcp ext local -> 1.5:80; ours lb;
            vip6:80/tcp -> 6.2.6:80; lb6:80/tcp -> 6.2.6:80; lb6:80/tcp ext local drop ->; ours lb6";
    "UDP of both families, one scaled to zero": "vip vip6 53/udp", "53/udp | 1.5", "53/udp | 6.1.5x"
        => "vip:53/udp -> 1.5:53; vip6:53/udp ->";
    "SCTP of both families": "vip vip6 9/sctp", "9/sctp | 1.5", "9/sctp | 6.1.5" => "vip:9/sctp -> 1.5:9; vip6:9/sctp -> 6.1.5:9";
    "two ports of both families": "vip vip6 a=80/tcp b=53/udp", "a=80/tcp b=53/udp | 1.5", "a=80/tcp b=53/udp | 6.1.5"
        => "vip:80/tcp -> 1.5:80; vip:53/udp -> 1.5:53; vip6:80/tcp -> 6.1.5:80; vip6:53/udp -> 6.1.5:53";
}
