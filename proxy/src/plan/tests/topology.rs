//! Hints: PreferSameNode before PreferSameZone before everybody, and only when all ready endpoints have them.

super::cases! {
    "zone hints on all and one for us": "vip 80/tcp", "80/tcp | 1.5#z1 2.6#z2" => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "several hints for zones": "vip 80/tcp", "80/tcp | 1.5#z3,z1 2.6#z2 2.7#z1"
        => "vip:80/tcp -> 1.5:80 2.7:80; draining 2.6:80";
    "no hint for our zone": "vip 80/tcp", "80/tcp | 1.5#z3 2.6#z2" => "vip:80/tcp -> 1.5:80 2.6:80";
    "one endpoint without a zone hint": "vip 80/tcp", "80/tcp | 1.5#z1 2.6" => "vip:80/tcp -> 1.5:80 2.6:80";
    "an unready one without a hint does not count": "vip 80/tcp", "80/tcp | 1.5#z1 2.6#z2 2.7!"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80 2.7:80";
    "a terminating one without a hint does not count": "vip 80/tcp", "80/tcp | 1.5#z1 2.6#z2 2.7~"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80 2.7:80";
    "our zone's only endpoint is not ready": "vip 80/tcp", "80/tcp | 1.5#z1! 2.6#z2"
        => "vip:80/tcp -> 2.6:80; draining 1.5:80";
    "a node without a zone takes all": "vip 80/tcp view:no-zone", "80/tcp | 1.5#z1 2.6#z2" => "vip:80/tcp -> 1.5:80 2.6:80";
    "node hints on all and one for us": "vip 80/tcp", "80/tcp | 1.5@n1 2.6@n2" => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "several hints for nodes": "vip 80/tcp", "80/tcp | 1.5@n3,n1 2.6@n2" => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "a node hint may be for another node than the endpoint's": "vip 80/tcp", "80/tcp | 1.5@n2 2.6@n1"
        => "vip:80/tcp -> 2.6:80; draining 1.5:80";
    "no node hint for us": "vip 80/tcp", "80/tcp | 1.5@n3 2.6@n2" => "vip:80/tcp -> 1.5:80 2.6:80";
    "one endpoint without a node hint": "vip 80/tcp", "80/tcp | 1.5@n1 2.6" => "vip:80/tcp -> 1.5:80 2.6:80";
    "a node without a zone still has hints for nodes": "vip 80/tcp view:no-zone", "80/tcp | 1.5@n1 2.6@n2"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "node hints stand before zone hints": "vip 80/tcp", "80/tcp | 1.5@n1#z1 2.6@n2#z1"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "without a node hint for us zone hints count": "vip 80/tcp", "80/tcp | 2.5@n2#z1 3.6@n3#z2"
        => "vip:80/tcp -> 2.5:80; draining 3.6:80";
    "with a node hint missing zone hints count": "vip 80/tcp", "80/tcp | 1.5@n1#z1 2.6#z1 3.7#z2"
        => "vip:80/tcp -> 1.5:80 2.6:80; draining 3.7:80";
    "mixed hints are no hints": "vip 80/tcp", "80/tcp | 1.5@n1 2.6#z1" => "vip:80/tcp -> 1.5:80 2.6:80";
    "the fallback ignores hints": "vip 80/tcp", "80/tcp | 1.5#z2~ 2.6#z1~" => "vip:80/tcp -> 1.5:80 2.6:80";
    "hints do not touch the local set": "vip 80/tcp internal-local", "80/tcp | 1.5#z2 1.6#z1"
        => "vip:80/tcp local -> 1.5:80 1.6:80";
    "hints count for the short cut and not for the local set": "vip 80/tcp:30080 external-local", "80/tcp | 1.5#z2 2.6#z1"
        => "vip:80/tcp -> 2.6:80; node:30080/tcp nodeport 80 -> 2.6:80; node:30080/tcp ext nodeport 80 local -> 1.5:80";
    "hints count from outside under Cluster": "vip 80/tcp:30080", "80/tcp | 1.5#z1 2.6#z2"
        => "vip:80/tcp -> 1.5:80; node:30080/tcp nodeport 80 -> 1.5:80; node:30080/tcp ext nodeport 80 -> 1.5:80;
            draining 2.6:80";
    "what the service asks for has no say without hints": "vip 80/tcp distribution~PreferSameNode", "80/tcp | 1.5 2.6"
        => "vip:80/tcp -> 1.5:80 2.6:80";
    "hints need nothing that the service asks for": "vip 80/tcp distribution~PreferClose", "80/tcp | 1.5#z1 2.6#z2"
        => "vip:80/tcp -> 1.5:80; draining 2.6:80";
    "hints are counted for each family by itself": "vip vip6 80/tcp", "80/tcp | 1.5#z1 2.6#z2", "80/tcp | 6.1.5#z1 6.2.6"
        => "vip:80/tcp -> 1.5:80; vip6:80/tcp -> 6.1.5:80 6.2.6:80; draining 2.6:80";
    "hints are counted for each port by itself": "vip a=80/tcp b=81/tcp", "a=80/tcp | 1.5#z1 2.6#z2", "b=81/tcp | 1.5#z1 2.6"
        => "vip:80/tcp -> 1.5:80; vip:81/tcp -> 1.5:81 2.6:81; draining 2.6:80";
}
