//! External IPs and the addresses of load balancers, who may use the latter, and what is ours as a whole.

super::cases! {
    "an external IP": "vip 80/tcp external~lb", "80/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80; lb:80/tcp -> 1.5:80 2.6:80; lb:80/tcp ext -> 1.5:80 2.6:80; ours lb";
    "a load balancer's address": "vip 80/tcp lb~lb", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "a load balancer's address takes the service's port": "vip 80/tcp:30080 lb~lb view:no-addresses", "8080/tcp | 1.5"
        => "vip:80/tcp -> 1.5:8080; lb:80/tcp -> 1.5:8080; lb:80/tcp ext -> 1.5:8080; ours lb";
    "several addresses": "vip 80/tcp lb~lb lb~192.0.2.2 external~192.0.2.3", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb;
            192.0.2.2:80/tcp -> 1.5:80; 192.0.2.2:80/tcp ext -> 1.5:80; ours 192.0.2.2;
            192.0.2.3:80/tcp -> 1.5:80; 192.0.2.3:80/tcp ext -> 1.5:80; ours 192.0.2.3";
    "one address by both ways": "vip 80/tcp lb~lb external~lb", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "an external IP that is the cluster IP": "vip 80/tcp external~vip", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; vip:80/tcp ext -> 1.5:80";
    "UDP on a load balancer's address": "vip 53/udp lb~lb", "53/udp | 1.5"
        => "vip:53/udp -> 1.5:53; lb:53/udp -> 1.5:53; lb:53/udp ext -> 1.5:53; ours lb";
    "SCTP on an external IP": "vip 9/sctp external~lb", "9/sctp | 1.5"
        => "vip:9/sctp -> 1.5:9; lb:9/sctp -> 1.5:9; lb:9/sctp ext -> 1.5:9; ours lb";
    "ipMode Proxy is not intercepted": "vip 80/tcp lb-proxied~lb", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "ipMode Proxy beside VIP": "vip 80/tcp lb-proxied~lb lb~192.0.2.2", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; 192.0.2.2:80/tcp -> 1.5:80; 192.0.2.2:80/tcp ext -> 1.5:80; ours 192.0.2.2";
    "ipMode Proxy leaves an external IP alone": "vip 80/tcp lb-proxied~lb external~lb", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    // cilium#13329, cilium#14118: a port that nobody serves must not travel on; it is refused here.
    "a load balancer's address without endpoints is ours all the same": "vip 80/tcp lb~lb"
        => "vip:80/tcp ->; lb:80/tcp ->; lb:80/tcp ext ->; ours lb";
    "this node's address is served, its other ports are not refused": "vip 80/tcp external~node", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; node:80/tcp -> 1.5:80; node:80/tcp ext -> 1.5:80";
    "another node's address is not refused": "vip 80/tcp external~172.30.0.12", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; 172.30.0.12:80/tcp -> 1.5:80; 172.30.0.12:80/tcp ext -> 1.5:80";
    "another node's IPv6 address is not refused": "vip6 80/tcp lb~2001:db8::12", "80/tcp | 6.1.5"
        => "vip6:80/tcp -> 6.1.5:80; 2001:db8::12:80/tcp -> 6.1.5:80; 2001:db8::12:80/tcp ext -> 6.1.5:80";
    "an IPv6 load balancer": "vip6 80/tcp lb~lb6", "80/tcp | 6.1.5"
        => "vip6:80/tcp -> 6.1.5:80; lb6:80/tcp -> 6.1.5:80; lb6:80/tcp ext -> 6.1.5:80; ours lb6";
    "external IPs of both families": "vip vip6 80/tcp external~lb external~lb6", "80/tcp | 1.5", "80/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb;
            vip6:80/tcp -> 6.1.5:80; lb6:80/tcp -> 6.1.5:80; lb6:80/tcp ext -> 6.1.5:80; ours lb6";
    "source ranges: the load balancer's addresses are checked inside and outside": "vip 80/tcp lb~lb from~203.0.113.0/24",
        "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb;
            from 203.0.113.0/24";
    "source ranges: in order, each once, without host bits":
        "vip 80/tcp lb~lb from~203.0.113.9/24 from~198.51.100.0/24 from~203.0.113.0/24", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb;
            from 198.51.100.0/24 203.0.113.0/24";
    "source ranges: one address": "vip 80/tcp lb~lb from~203.0.113.9/32", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb; from 203.0.113.9/32";
    "source ranges: a zero CIDR allows all": "vip 80/tcp lb~lb from~203.0.113.0/24 from~0.0.0.0/0", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "source ranges: a zero CIDR of IPv6 allows all of IPv6": "vip6 80/tcp lb~lb6 from~2001:db8:5::/48 from~::/0", "80/tcp | 6.1.5"
        => "vip6:80/tcp -> 6.1.5:80; lb6:80/tcp -> 6.1.5:80; lb6:80/tcp ext -> 6.1.5:80; ours lb6";
    "source ranges: a zero CIDR of the other family does not": "vip 80/tcp lb~lb from~203.0.113.0/24 from~::/0", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb; from 203.0.113.0/24";
    "source ranges: each family by its own": "vip vip6 80/tcp lb~lb lb~lb6 from~203.0.113.0/24 from~2001:db8:5::/48", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb;
            vip6:80/tcp ->; lb6:80/tcp checked ->; lb6:80/tcp ext checked ->; ours lb6; from 203.0.113.0/24 2001:db8:5::/48";
    "source ranges: the other family's say nothing": "vip vip6 80/tcp lb~lb lb~lb6 from~2001:db8:5::/48", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb;
            vip6:80/tcp ->; lb6:80/tcp checked ->; lb6:80/tcp ext checked ->; ours lb6; from 2001:db8:5::/48";
    "source ranges: only the other family's": "vip 80/tcp lb~lb from~2001:db8:5::/48", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "source ranges say nothing of external IPs": "vip 80/tcp external~lb from~203.0.113.0/24", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "source ranges say nothing of node ports": "vip 80/tcp:30080 lb~lb from~203.0.113.0/24", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 -> 1.5:80;
            lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb; from 203.0.113.0/24";
    "source ranges: an address that is also an external IP is open": "vip 80/tcp lb~lb external~lb from~203.0.113.0/24",
        "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; lb:80/tcp -> 1.5:80; lb:80/tcp ext -> 1.5:80; ours lb";
    "source ranges with a policy Local": "vip 80/tcp lb~lb from~203.0.113.0/24 external-local", "80/tcp | 2.6"
        => "vip:80/tcp -> 2.6:80; lb:80/tcp checked -> 2.6:80; lb:80/tcp ext local drop checked ->; ours lb;
            from 203.0.113.0/24";
    "source ranges without a load balancer's address": "vip 80/tcp from~203.0.113.0/24", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "source ranges of a load balancer that is not intercepted": "vip 80/tcp lb-proxied~lb from~203.0.113.0/24", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80";
    "source ranges: a node within them may use the address as its own": "vip 80/tcp lb~lb from~172.30.0.0/24", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; lb:80/tcp checked -> 1.5:80; lb:80/tcp ext checked -> 1.5:80; ours lb;
            from 172.30.0.0/24 192.0.2.1/32";
}
