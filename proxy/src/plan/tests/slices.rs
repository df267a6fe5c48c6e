//! Slices are merged, and an endpoint that is in several of them counts once.

super::cases! {
    "one slice, in order": "vip 80/tcp", "8080/tcp | 2.6 1.5" => "vip:80/tcp -> 1.5:8080 2.6:8080";
    // kubernetes#121362: all slices count at once, whichever changed last.
    "two slices": "vip 80/tcp", "8080/tcp | 2.6", "8080/tcp | 1.5" => "vip:80/tcp -> 1.5:8080 2.6:8080";
    "addresses are in order as numbers": "vip 80/tcp", "80/tcp | 1.10 1.9 1.100" => "vip:80/tcp -> 1.9:80 1.10:80 1.100:80";
    "ports of one address are in order as numbers": "vip a=80/tcp", "a=9000/tcp | 1.5", "a=800/tcp | 1.5"
        => "vip:80/tcp -> 1.5:800 1.5:9000";
    "IPv6 addresses are in order as numbers": "vip6 80/tcp", "80/tcp | 6.1.10 6.1.9 6.1.a"
        => "vip6:80/tcp -> 6.1.9:80 6.1.a:80 6.1.10:80";
    "an endpoint in two slices": "vip 80/tcp", "8080/tcp | 1.5 2.6", "8080/tcp | 1.5" => "vip:80/tcp -> 1.5:8080 2.6:8080";
    "an endpoint twice in one slice": "vip 80/tcp", "8080/tcp | 1.5 1.5" => "vip:80/tcp -> 1.5:8080";
    "an IPv6 endpoint in two slices": "vip6 80/tcp", "80/tcp | 6.1.5", "80/tcp | 6.1.5" => "vip6:80/tcp -> 6.1.5:80";
    "ready in one slice is ready": "vip 80/tcp", "80/tcp | 1.5!", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "ready in the first slice is ready": "vip 80/tcp", "80/tcp | 1.5", "80/tcp | 1.5!" => "vip:80/tcp -> 1.5:80";
    "terminating in one slice is not terminating": "vip 80/tcp", "80/tcp | 1.5~", "80/tcp | 1.5" => "vip:80/tcp -> 1.5:80";
    "local in one slice is local": "vip 80/tcp internal-local", "80/tcp | 1.5", "80/tcp | 1.5"
        => "vip:80/tcp local -> 1.5:80";
    "hints are those of the slice where it is ready": "vip 80/tcp", "80/tcp | 1.5!", "80/tcp | 1.5#z1 2.6#z2"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "another port's slice": "vip 80/tcp", "8080/tcp | 1.5", "metrics=9/tcp | 1.7" => "vip:80/tcp -> 1.5:8080";
    "another protocol's slice": "vip 80/tcp", "8080/tcp | 1.5", "8080/udp | 1.7" => "vip:80/tcp -> 1.5:8080";
    "an empty slice beside a full one": "vip 80/tcp", "8080/tcp |", "8080/tcp | 1.5" => "vip:80/tcp -> 1.5:8080";
    "a slice without ports": "vip 80/tcp", "| 1.5" => "vip:80/tcp ->";
    "a named port differs per slice": "vip http=80/tcp", "http=8080/tcp | 1.5", "http=9090/tcp | 2.6"
        => "vip:80/tcp -> 1.5:8080 2.6:9090";
    "a named port differs per family": "vip vip6 http=80/tcp", "http=8080/tcp | 1.5", "http=9090/tcp | 6.1.5"
        => "vip:80/tcp -> 1.5:8080; vip6:80/tcp -> 6.1.5:9090";
    "a named port is not served by an unnamed one": "vip http=80/tcp", "80/tcp | 1.5" => "vip:80/tcp ->";
    "two ports with one target": "vip a=80/tcp b=81/tcp", "a=8080/tcp b=8080/tcp | 1.5"
        => "vip:80/tcp -> 1.5:8080; vip:81/tcp -> 1.5:8080";
    "one target in two slices of two ports": "vip a=80/tcp b=81/tcp", "a=8080/tcp | 1.5", "b=8080/tcp | 2.6"
        => "vip:80/tcp -> 1.5:8080; vip:81/tcp -> 2.6:8080";
}
