//! Which services are served at all, on which ports and protocols.

super::cases! {
    "a service without ports has nothing": "vip" => "";
    "a service without a cluster IP is not served yet": "80/tcp", "8080/tcp | 1.5" => "";
    "external addresses do not make up for a cluster IP": "80/tcp:30080 external~lb lb~lb", "80/tcp | 1.5" => "";
    "headless services are skipped": "headless 80/tcp", "80/tcp | 1.5" => "";
    "headless services with a node port are skipped": "headless 80/tcp:30080", "80/tcp | 1.5" => "";
    "ExternalName services are skipped": "external-name vip 80/tcp", "80/tcp | 1.5" => "";
    "another proxy's services are skipped": "other-proxy vip 80/tcp:30080 lb~lb", "80/tcp | 1.5" => "";
    "without slices a port is refused": "vip 80/tcp" => "vip:80/tcp ->";
    "without endpoints a port is refused": "vip 80/tcp", "8080/tcp |" => "vip:80/tcp ->";
    "a UDP port without endpoints is refused": "vip 53/udp", "53/udp |" => "vip:53/udp ->";
    "a port that no slice has is refused": "vip a=80/tcp b=81/tcp", "a=80/tcp | 1.5"
        => "vip:80/tcp -> 1.5:80; vip:81/tcp ->";
    "SCTP alone": "vip 9/sctp", "9/sctp | 1.5" => "vip:9/sctp -> 1.5:9";
    "SCTP beside TCP": "vip a=80/tcp b=9/sctp", "a=8080/tcp b=9/sctp | 1.5"
        => "vip:80/tcp -> 1.5:8080; vip:9/sctp -> 1.5:9";
    "TCP, UDP and SCTP with one number are three ports": "vip a=53/tcp b=53/udp c=53/sctp",
        "a=1053/tcp b=2053/udp c=3053/sctp | 1.5"
        => "vip:53/tcp -> 1.5:1053; vip:53/udp -> 1.5:2053; vip:53/sctp -> 1.5:3053";
    "one name for two protocols": "vip dns=53/tcp dns=53/udp", "dns=1053/tcp dns=2053/udp | 1.5"
        => "vip:53/tcp -> 1.5:1053; vip:53/udp -> 1.5:2053";
    "the target port has no say in the service's": "vip 80/tcp", "1/tcp | 1.5" => "vip:80/tcp -> 1.5:1";
    "an endpoint on no node is one of the cluster's": "vip 80/tcp", "80/tcp | -.5 1.5" => "vip:80/tcp -> 1.5:80 9.5:80";
    "two cluster IPs": "vip 10.96.0.8 80/tcp", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80; 10.96.0.8:80/tcp -> 1.5:80";
    "a cluster IP twice": "vip vip 80/tcp", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "affinity is on every frontend": "vip 80/tcp:30080 lb~lb affinity~30", "80/tcp | 1.5"
        => "vip:80/tcp affinity 30 -> 1.5:80; node:30080/tcp nodeport 80 affinity 30 -> 1.5:80;
            node:30080/tcp ext nodeport 80 affinity 30 -> 1.5:80; lb:80/tcp affinity 30 -> 1.5:80;
            lb:80/tcp ext affinity 30 -> 1.5:80; ours lb";
    "affinity of a UDP port": "vip 53/udp affinity~10800", "53/udp | 1.5" => "vip:53/udp affinity 10800 -> 1.5:53";
    "affinity of an SCTP port": "vip 9/sctp affinity~1", "9/sctp | 1.5" => "vip:9/sctp affinity 1 -> 1.5:9";
    "affinity without endpoints": "vip 80/tcp affinity~30" => "vip:80/tcp affinity 30 ->";
    "affinity keeps the local set apart": "vip 80/tcp:30080 external-local view:no-addresses view:address~node affinity~30",
        "80/tcp | 1.5 2.6"
        => "vip:80/tcp affinity 30 -> 1.5:80 2.6:80; node:30080/tcp nodeport 80 affinity 30 -> 1.5:80 2.6:80;
            node:30080/tcp ext nodeport 80 local affinity 30 -> 1.5:80";
    "affinity in both families": "vip vip6 80/tcp affinity~30", "80/tcp | 1.5", "80/tcp | 6.1.5"
        => "vip:80/tcp affinity 30 -> 1.5:80; vip6:80/tcp affinity 30 -> 6.1.5:80";
    "the cluster's DNS ports go to the node, its other ports do not":
        "kube-system/kube-dns vip dns=53/udp dns-tcp=53/tcp metrics=9153/tcp", "dns=53/udp dns-tcp=53/tcp metrics=9153/tcp | 2.9"
        => "vip:53/udp -> node:5353; vip:53/tcp -> node:5353; vip:9153/tcp -> 2.9:9153";
    "DNS on the node needs no endpoint": "kube-system/kube-dns vip 53/udp" => "vip:53/udp -> node:5353";
    "DNS on the node is local": "kube-system/kube-dns vip 53/udp internal-local", "53/udp | 2.9"
        => "vip:53/udp local -> node:5353";
    "DNS on the node in both families": "kube-system/kube-dns vip vip6 53/udp view:dns6", "53/udp | 2.9", "53/udp | 6.2.9"
        => "vip:53/udp -> node:5353; vip6:53/udp -> node6:5353";
    "DNS without a listener of its family is served by its pods": "kube-system/kube-dns vip vip6 53/udp", "53/udp | 2.9",
        "53/udp | 6.2.9" => "vip:53/udp -> node:5353; vip6:53/udp -> 6.2.9:53";
    "a listener of a family that the service has not is left alone": "kube-system/kube-dns vip 53/udp view:dns6", "53/udp | 2.9"
        => "vip:53/udp -> node:5353";
    "DNS over SCTP is no DNS of ours": "kube-system/kube-dns vip 53/sctp", "53/sctp | 2.9" => "vip:53/sctp -> 2.9:53";
    "another service's DNS port is its own": "vip 53/udp", "53/udp | 2.9" => "vip:53/udp -> 2.9:53";
}
