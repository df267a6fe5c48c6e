//! NodePorts: on which addresses of the node, and for whom.

super::cases! {
    "a node port is served inside and outside": "vip 80/tcp:30080", "8080/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:8080 2.6:8080; node:30080/tcp nodeport 80 -> 1.5:8080 2.6:8080;
            node:30080/tcp ext nodeport 80 -> 1.5:8080 2.6:8080";
    "a UDP node port": "vip 53/udp:30053", "53/udp | 1.5"
        => "vip:53/udp -> 1.5:53; node:30053/udp nodeport 53 -> 1.5:53; node:30053/udp ext nodeport 53 -> 1.5:53";
    "an SCTP node port": "vip 9/sctp:30009", "9/sctp | 1.5"
        => "vip:9/sctp -> 1.5:9; node:30009/sctp nodeport 9 -> 1.5:9; node:30009/sctp ext nodeport 9 -> 1.5:9";
    "one number for TCP and UDP": "vip a=53/tcp:30053 b=53/udp:30053", "a=53/tcp b=54/udp | 1.5"
        => "vip:53/tcp -> 1.5:53; vip:53/udp -> 1.5:54;
            node:30053/tcp nodeport 53 -> 1.5:53; node:30053/tcp ext nodeport 53 -> 1.5:53;
            node:30053/udp nodeport 53 -> 1.5:54; node:30053/udp ext nodeport 53 -> 1.5:54";
    "a port without a node port beside one": "vip a=80/tcp b=81/tcp:30081", "a=80/tcp b=81/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; vip:81/tcp -> 1.5:81; node:30081/tcp nodeport 81 -> 1.5:81;
            node:30081/tcp ext nodeport 81 -> 1.5:81";
    "a node port with the service port's number": "vip 30080/tcp:30080", "80/tcp | 1.5"
        => "vip:30080/tcp -> 1.5:80; node:30080/tcp nodeport 30080 -> 1.5:80; node:30080/tcp ext nodeport 30080 -> 1.5:80";
    "a node port without endpoints is refused": "vip 80/tcp:30080"
        => "vip:80/tcp ->; node:30080/tcp nodeport 80 ->; node:30080/tcp ext nodeport 80 ->";
    "a UDP node port without endpoints is refused": "vip 53/udp:30053", "53/udp | 1.5x"
        => "vip:53/udp ->; node:30053/udp nodeport 53 ->; node:30053/udp ext nodeport 53 ->";
    "every address of the node": "vip 80/tcp:30080 view:address~172.31.0.11", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 -> 1.5:80;
            172.31.0.11:30080/tcp nodeport 80 -> 1.5:80; 172.31.0.11:30080/tcp ext nodeport 80 -> 1.5:80";
    "no address, no node port": "vip 80/tcp:30080 view:no-addresses", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "an IPv6 node port": "vip6 80/tcp:30080", "80/tcp | 6.1.5"
        => "vip6:80/tcp -> 6.1.5:80; node6:30080/tcp nodeport 80 -> 6.1.5:80; node6:30080/tcp ext nodeport 80 -> 6.1.5:80";
    "node ports of both families": "vip vip6 80/tcp:30080", "80/tcp | 1.5", "80/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 -> 1.5:80;
            vip6:80/tcp -> 6.1.5:80; node6:30080/tcp nodeport 80 -> 6.1.5:80; node6:30080/tcp ext nodeport 80 -> 6.1.5:80";
    "an IPv4 service has no node port on IPv6 addresses": "vip 80/tcp:30080 view:no-addresses view:address~node6", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80";
    "localhost is served inside alone": "vip 80/tcp:30080 view:localhost view:no-addresses", "80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; localhost:30080/tcp nodeport 80 -> 1.5:80";
    "localhost is a short cut to the cluster set": "vip 80/tcp:30080 view:localhost external-local", "80/tcp | 2.6"
        => "vip:80/tcp -> 2.6:80; node:30080/tcp nodeport 80 -> 2.6:80; node:30080/tcp ext nodeport 80 local drop ->;
            localhost:30080/tcp nodeport 80 -> 2.6:80";
    "localhost of UDP": "vip 53/udp:30053 view:localhost view:no-addresses", "53/udp | 1.5"
        => "vip:53/udp -> 1.5:53; localhost:30053/udp nodeport 53 -> 1.5:53";
    "localhost is IPv4's": "vip6 80/tcp:30080 view:localhost view:no-addresses", "80/tcp | 6.1.5" => "vip6:80/tcp -> 6.1.5:80";
    "localhost of a service of both families": "vip vip6 80/tcp:30080 view:localhost view:no-addresses", "80/tcp | 1.5",
        "80/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:80; vip6:80/tcp -> 6.1.5:80; localhost:30080/tcp nodeport 80 -> 1.5:80";
    "localhost without a node port": "vip 80/tcp view:localhost", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "localhost among the node's addresses has no outside": "vip 80/tcp:30080 view:no-addresses view:address~localhost",
        "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; localhost:30080/tcp nodeport 80 -> 1.5:80";
    "another loopback address is not served": "vip vip6 80/tcp:30080 view:no-addresses view:address~127.0.0.2 view:address~::1",
        "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; vip6:80/tcp ->";
    "a node port on localhost keeps affinity": "vip 80/tcp:30080 view:localhost view:no-addresses affinity~30", "80/tcp | 1.5"
        => "vip:80/tcp affinity 30 -> 1.5:80; localhost:30080/tcp nodeport 80 affinity 30 -> 1.5:80";
}
