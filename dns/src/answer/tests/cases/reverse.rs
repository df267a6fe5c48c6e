//! Reverse names: in-addr.arpa and ip6.arpa.

use super::{Table, forwarding, restricted, restricted_without_upstreams, sample, two_zones};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: WHOLE },
    Table { cluster: sample, cases: NAMES_BESIDE },
    Table { cluster: forwarding, cases: PASSED_ON },
    Table { cluster: restricted, cases: RESTRICTED },
    Table { cluster: restricted_without_upstreams, cases: REFUSED },
    Table { cluster: two_zones, cases: TWO_ZONES },
];

const WHOLE: &str = "
a cluster IP has the name of its service
  20.0.96.10.in-addr.arpa PTR -> an[@ 5 PTR web.default.svc.~]
casing is the client's
  20.0.96.10.IN-ADDR.Arpa PTR -> an[@ 5 PTR web.default.svc.~]
an endpoint has its hostname
  5.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR db-0.db.data.svc.~]
a hostname is in lower case
  5.1.244.10.in-addr.arpa PTR -> an[@ 5 PTR db-1.db.data.svc.~]
an endpoint without a hostname has the name of its address
  6.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR 10-244-0-6.peers.data.svc.~]
an endpoint below a cluster IP has its hostname
  4.1.244.10.in-addr.arpa PTR -> an[@ 5 PTR canary.web.default.svc.~]
an endpoint below a cluster IP without a hostname has the name of its address
  2.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR 10-244-0-2.web.default.svc.~]
an endpoint of one service under two names
  17.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR 10-244-0-17.twice.data.svc.~; @ 5 PTR t.twice.data.svc.~]
an endpoint that is published before it is ready
  8.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR e-0.early.data.svc.~]
a cluster IP of IPv6
  0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> an[@ 5 PTR dual.default.svc.~]
casing of nibbles is the client's
  0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.IP6.arpa PTR -> an[@ 5 PTR dual.default.svc.~]
an endpoint of IPv6
  6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> an[@ 5 PTR fd00--6.peers.data.svc.~]
a hostname of IPv6
  1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> an[@ 5 PTR d-0.duo.data.svc.~]
a reverse name has nothing but PTR
  20.0.96.10.in-addr.arpa A -> NODATA in-addr.arpa.
ANY at a reverse name
  20.0.96.10.in-addr.arpa ANY -> an[@ 5 PTR web.default.svc.~]
an endpoint that is not ready has no name
  7.0.244.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a pod of no service has no name
  77.0.244.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
an unknown address
  9.9.9.9.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
an unknown address of IPv6
  7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> NXDOMAIN ip6.arpa.
casing of the zone is the client's in a denial
  9.9.9.9.In-Addr.arpa PTR -> NXDOMAIN In-Addr.arpa.
";

const NAMES_BESIDE: &str = "
a label before an address
  x.20.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a number before an address
  1.20.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a number that no octet has
  300.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a number with a leading zero
  020.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a label that is no number
  web.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
a nibble that is none
  g.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> NXDOMAIN ip6.arpa.
two nibbles in one label
  30.0.0.d.f.ip6.arpa PTR -> NXDOMAIN ip6.arpa.
the start of addresses is not denied
  96.10.in-addr.arpa PTR -> NODATA in-addr.arpa.
the start of addresses of IPv6 is not denied
  0.0.d.f.ip6.arpa PTR -> NODATA ip6.arpa.
the zone itself
  in-addr.arpa PTR -> NODATA @
the zone's SOA
  in-addr.arpa SOA -> an[@ SOA]
the SOA of the zone of IPv6
  ip6.arpa SOA -> an[@ SOA]
the zone's name server
  in-addr.arpa NS -> an[@ 5 NS ns.dns.in-addr.arpa.] ar[ns.dns.in-addr.arpa. 5 A 10.96.0.10]
the address of the zone's name server
  ns.dns.in-addr.arpa A -> an[@ 5 A 10.96.0.10]
the domain above is not ours
  arpa PTR -> Refused
a domain that only ends alike
  xin-addr.arpa PTR -> Refused
";

const PASSED_ON: &str = "
an address of ours is ours
  20.0.96.10.in-addr.arpa PTR -> NoError aa ra an[@ 5 PTR web.default.svc.~]
another type at an address of ours is ours
  20.0.96.10.in-addr.arpa A -> NoError aa ra ns[in-addr.arpa. SOA]
an unknown address is passed on
  9.9.9.9.in-addr.arpa PTR -> Forward
an unknown address of IPv6 is passed on
  7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR -> Forward
the start of addresses is passed on
  9.9.in-addr.arpa NS -> Forward
what is no address is passed on
  b._dns-sd._udp.0.96.10.in-addr.arpa PTR -> Forward
unknown names of the cluster are not
  nothing.default.svc.~ A -> NXDomain aa ra ns[~ SOA]
";

const RESTRICTED: &str = "
an address of a range of ours
  20.0.96.10.in-addr.arpa PTR -> NoError aa ra an[@ 5 PTR web.default.svc.~]
the zone of a range ends at a label: 10.96.0.0/12 has sixteen
  9.9.111.10.in-addr.arpa PTR -> NXDomain aa ra ns[111.10.in-addr.arpa. SOA]
an address right behind the range
  9.9.112.10.in-addr.arpa PTR -> Forward
an address right before the range
  9.9.95.10.in-addr.arpa PTR -> Forward
an endpoint of another range of ours
  6.0.244.10.in-addr.arpa PTR -> NoError aa ra an[@ 5 PTR 10-244-0-6.peers.data.svc.~]
an endpoint outside of our ranges is not ours
  1.0.30.172.in-addr.arpa PTR -> Forward
an unknown address of a range of ours is denied where nothing is passed on
  99.0.244.10.in-addr.arpa PTR -> NXDomain aa ra ns[244.10.in-addr.arpa. SOA]
a label before an address of a range of ours
  x.99.0.244.10.in-addr.arpa PTR -> NXDomain aa ra ns[244.10.in-addr.arpa. SOA]
the zone of a range
  244.10.in-addr.arpa SOA -> NoError aa ra an[@ SOA]
part of an address of a range of ours
  7.244.10.in-addr.arpa PTR -> NoError aa ra ns[244.10.in-addr.arpa. SOA]
the name server of a range's zone
  ns.dns.244.10.in-addr.arpa A -> NoError aa ra an[@ 5 A 10.96.0.10]
above the zone of a range is not ours
  10.in-addr.arpa PTR -> Forward
the whole reverse zone is not ours
  in-addr.arpa SOA -> Forward
an address of a range of IPv6
  6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR ->
    NoError aa ra an[@ 5 PTR fd00--6.peers.data.svc.~]
an unknown address of a range of IPv6
  7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR ->
    NXDomain aa ra ns[0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. SOA]
an address outside of the range of IPv6
  7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa PTR -> Forward
";

const REFUSED: &str = "
without upstreams, addresses outside of our ranges are refused
  9.9.112.10.in-addr.arpa PTR -> Refused
and those in them are denied
  9.9.111.10.in-addr.arpa PTR -> NXDOMAIN 111.10.in-addr.arpa.
";

const TWO_ZONES: &str = "
reverse names point into the first zone
  20.0.96.10.in-addr.arpa PTR -> an[@ 5 PTR web.default.svc.~]
those of endpoints, too
  5.0.244.10.in-addr.arpa PTR -> an[@ 5 PTR db-0.db.data.svc.~]
";
