//! Traffic policies: Cluster and Local, inside and outside, and the short cut from inside.

super::cases! {
    "internal Local: only this node's": "vip 80/tcp internal-local", "80/tcp | 1.5 2.6"
        => "vip:80/tcp local -> 1.5:80; draining 2.6:80";
    "internal Local, none here: drop": "vip 80/tcp internal-local", "80/tcp | 2.6"
        => "vip:80/tcp local drop ->; draining 2.6:80";
    "internal Local, none anywhere: refuse": "vip 80/tcp internal-local" => "vip:80/tcp local ->";
    "internal Local, none ready anywhere: refuse": "vip 80/tcp internal-local", "80/tcp | 2.6!"
        => "vip:80/tcp local ->; draining 2.6:80";
    "internal Local, terminating elsewhere counts as an endpoint": "vip 80/tcp internal-local", "80/tcp | 2.6~"
        => "vip:80/tcp local drop ->; draining 2.6:80";
    "internal Local, an unready one here: drop": "vip 80/tcp internal-local", "80/tcp | 1.5! 2.6"
        => "vip:80/tcp local drop ->; draining 1.5:80 2.6:80";
    "internal Local, an endpoint on no node is not here": "vip 80/tcp internal-local", "80/tcp | -.5"
        => "vip:80/tcp local drop ->; draining 9.5:80";
    "internal Local of UDP, none here: drop": "vip 53/udp internal-local", "53/udp | 2.6"
        => "vip:53/udp local drop ->; draining 2.6:53";
    "internal Local of SCTP": "vip 9/sctp internal-local", "9/sctp | 1.5 2.6" => "vip:9/sctp local -> 1.5:9; draining 2.6:9";
    "internal Local, each port by itself": "vip a=80/tcp b=81/tcp internal-local", "a=80/tcp | 1.5", "b=81/tcp | 2.6"
        => "vip:80/tcp local -> 1.5:80; vip:81/tcp local drop ->; draining 2.6:81";
    "internal Local, Cluster outside": "vip 80/tcp:30080 internal-local", "80/tcp | 1.5 2.6"
        => "vip:80/tcp local -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80 2.6:80;
            node:30080/tcp ext nodeport 80 -> 1.5:80 2.6:80";
    "internal Local has no say in the short cut": "vip 80/tcp:30080 internal-local external-local", "80/tcp | 2.6"
        => "vip:80/tcp local drop ->; node:30080/tcp nodeport 80 -> 2.6:80; node:30080/tcp ext nodeport 80 local drop ->";
    "external Local: inside is a short cut to the cluster set": "vip 80/tcp:30080 external-local", "8080/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:8080 2.6:8080; node:30080/tcp nodeport 80 -> 1.5:8080 2.6:8080;
            node:30080/tcp ext nodeport 80 local -> 1.5:8080";
    "external Local, none here: drop outside only": "vip 80/tcp:30080 external-local", "8080/tcp | 2.6"
        => "vip:80/tcp -> 2.6:8080; node:30080/tcp nodeport 80 -> 2.6:8080; node:30080/tcp ext nodeport 80 local drop ->";
    "external Local, none anywhere: refuse": "vip 80/tcp:30080 external-local"
        => "vip:80/tcp ->; node:30080/tcp nodeport 80 ->; node:30080/tcp ext nodeport 80 local ->";
    "external Local, none ready anywhere: refuse": "vip 80/tcp:30080 external-local", "8080/tcp | 1.5! 2.6x"
        => "vip:80/tcp ->; node:30080/tcp nodeport 80 ->; node:30080/tcp ext nodeport 80 local ->; draining 1.5:8080 2.6:8080";
    "external Local of a load balancer": "vip 80/tcp lb~lb external-local", "80/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80; lb:80/tcp -> 1.5:80 2.6:80; lb:80/tcp ext local -> 1.5:80; ours lb";
    "external Local of an external IP": "vip 80/tcp external~lb external-local", "80/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80; lb:80/tcp -> 1.5:80 2.6:80; lb:80/tcp ext local -> 1.5:80; ours lb";
    "external Local of a load balancer, none here": "vip 80/tcp lb~lb external-local", "80/tcp | 2.6"
        => "vip:80/tcp -> 2.6:80; lb:80/tcp -> 2.6:80; lb:80/tcp ext local drop ->; ours lb";
    "external Local of UDP": "vip 53/udp:30053 external-local", "53/udp | 1.5 2.6"
        => "vip:53/udp -> 1.5:53 2.6:53; node:30053/udp nodeport 53 -> 1.5:53 2.6:53;
            node:30053/udp ext nodeport 53 local -> 1.5:53";
    "external Local of SCTP, none here": "vip 9/sctp:30009 external-local", "9/sctp | 2.6"
        => "vip:9/sctp -> 2.6:9; node:30009/sctp nodeport 9 -> 2.6:9; node:30009/sctp ext nodeport 9 local drop ->";
    "external Local without an address outside changes nothing": "vip 80/tcp external-local", "80/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80";
    "both Local": "vip 80/tcp:30080 external-local internal-local", "8080/tcp | 1.5 2.6"
        => "vip:80/tcp local -> 1.5:8080; node:30080/tcp nodeport 80 -> 1.5:8080 2.6:8080;
            node:30080/tcp ext nodeport 80 local -> 1.5:8080";
    "both Local in the cluster IP's own right: nobody else drains": "vip 80/tcp lb~lb external-local internal-local",
        "80/tcp | 1.5 2.6"
        => "vip:80/tcp local -> 1.5:80; lb:80/tcp -> 1.5:80 2.6:80; lb:80/tcp ext local -> 1.5:80; ours lb";
    // cilium#11043, cilium#33547: the health check port is a listener's, not a frontend's.
    "a health check port is not a frontend": "vip 80/tcp:30080 lb~lb external-local health~32000", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 local -> 1.5:80;
            lb:80/tcp -> 1.5:80; lb:80/tcp ext local -> 1.5:80; ours lb";
    "IPv6: internal Local": "vip6 80/tcp internal-local", "80/tcp | 6.1.5 6.2.6"
        => "vip6:80/tcp local -> 6.1.5:80; draining 6.2.6:80";
    "IPv6: internal Local, none here: drop": "vip6 80/tcp internal-local", "80/tcp | 6.2.6"
        => "vip6:80/tcp local drop ->; draining 6.2.6:80";
    "IPv6: external Local": "vip6 80/tcp:30080 external-local", "80/tcp | 6.1.5 6.2.6"
        => "vip6:80/tcp -> 6.1.5:80 6.2.6:80; node6:30080/tcp nodeport 80 -> 6.1.5:80 6.2.6:80;
            node6:30080/tcp ext nodeport 80 local -> 6.1.5:80";
}
