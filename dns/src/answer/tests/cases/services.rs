//! Services with cluster IPs: their names, ports and endpoints.

use super::{Table, sample, sample_without_empty_services};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: ADDRESSES },
    Table { cluster: sample, cases: PORTS },
    Table { cluster: sample, cases: ENDPOINTS },
    Table { cluster: sample, cases: MISSING },
    Table { cluster: sample_without_empty_services, cases: EMPTY_IGNORED },
];

const ADDRESSES: &str = "
a service has its cluster IP
  web.default.svc.~ A -> an[@ 5 A 10.96.0.20]
a service of IPv4 has no AAAA
  web.default.svc.~ AAAA -> NODATA ~
a service of IPv6 has its cluster IP
  six.default.svc.~ AAAA -> an[@ 5 AAAA fd00::31]
a service of IPv6 has no A
  six.default.svc.~ A -> NODATA ~
a dual-stack service has an A
  dual.default.svc.~ A -> an[@ 5 A 10.96.0.30]
a dual-stack service has an AAAA
  dual.default.svc.~ AAAA -> an[@ 5 AAAA fd00::30]
a service without endpoints still answers
  dual.default.svc.~ A -> an[@ 5 A 10.96.0.30]
the API server's service is one like others
  kubernetes.default.svc.~ A -> an[@ 5 A 10.96.0.1]
a service whose port has no name answers
  unnamed.default.svc.~ A -> an[@ 5 A 10.96.0.21]
a service that waits for its cluster IP exists
  pending.default.svc.~ A -> NODATA ~
a service that waits for its cluster IP has no SRV
  pending.default.svc.~ SRV -> NODATA ~
casing is the client's, in the question and the answer
  WEB.Default.sVc.CLUSTER.Local A -> an[@ 5 A 10.96.0.20]
types that services do not have: TXT
  web.default.svc.~ TXT -> NODATA ~
types that services do not have: MX
  web.default.svc.~ MX -> NODATA ~
types that services do not have: CNAME
  web.default.svc.~ CNAME -> NODATA ~
types that services do not have: NS
  web.default.svc.~ NS -> NODATA ~
types that services do not have: SOA
  web.default.svc.~ SOA -> NODATA ~
types that services do not have: PTR
  web.default.svc.~ PTR -> NODATA ~
types that services do not have: HTTPS
  web.default.svc.~ HTTPS -> NODATA ~
types that nobody knows
  web.default.svc.~ TYPE65280 -> NODATA ~
ANY gets the address, and no more
  web.default.svc.~ ANY -> an[@ 5 A 10.96.0.20]
ANY gets the AAAA where there is no A
  six.default.svc.~ ANY -> an[@ 5 AAAA fd00::31]
ANY gets one family of two
  dual.default.svc.~ ANY -> an[@ 5 A 10.96.0.30]
casing of the zone is the client's in a denial, too
  web.default.svc.CLUSTER.Local TXT -> NODATA CLUSTER.Local.
";

const PORTS: &str = "
a service has SRV, and the address of its target
  web.default.svc.~ SRV -> an[@ 5 SRV 0 100 80 web.default.svc.~] ar[@ 5 A 10.96.0.20]
a named port has SRV, and the address of its target
  _http._tcp.web.default.svc.~ SRV ->
    an[@ 5 SRV 0 100 80 web.default.svc.~] ar[web.default.svc.~ 5 A 10.96.0.20]
the target of IPv6 comes with its address
  _http._tcp.six.default.svc.~ SRV ->
    an[@ 5 SRV 0 100 80 six.default.svc.~] ar[six.default.svc.~ 5 AAAA fd00::31]
a dual-stack target comes with both addresses, which share the weight
  _http._tcp.dual.default.svc.~ SRV ->
    an[@ 5 SRV 0 50 80 dual.default.svc.~] ar[dual.default.svc.~ 5 A 10.96.0.30; dual.default.svc.~ 5 AAAA fd00::30]
a port without a name is found at the service
  unnamed.default.svc.~ SRV -> an[@ 5 SRV 0 100 8080 unnamed.default.svc.~] ar[@ 5 A 10.96.0.21]
all ports share the weight, and a number of two protocols is said once
  kube-dns.kube-system.svc.~ SRV ->
    an[@ 5 SRV 0 33 53 kube-dns.kube-system.svc.~; @ 5 SRV 0 33 9153 kube-dns.kube-system.svc.~] ar[@ 5 A 10.96.0.10]
ports of one number are told by their protocol: UDP
  _dns._udp.kube-dns.kube-system.svc.~ SRV ->
    an[@ 5 SRV 0 100 53 kube-dns.kube-system.svc.~] ar[kube-dns.kube-system.svc.~ 5 A 10.96.0.10]
ports of one number are told by their protocol: TCP
  _dns-tcp._tcp.kube-dns.kube-system.svc.~ SRV ->
    an[@ 5 SRV 0 100 53 kube-dns.kube-system.svc.~] ar[kube-dns.kube-system.svc.~ 5 A 10.96.0.10]
another port of the same service
  _metrics._tcp.kube-dns.kube-system.svc.~ SRV ->
    an[@ 5 SRV 0 100 9153 kube-dns.kube-system.svc.~] ar[kube-dns.kube-system.svc.~ 5 A 10.96.0.10]
casing is the client's, the target's is ours
  _HTTP._Tcp.WEB.default.svc.~ SRV ->
    an[@ 5 SRV 0 100 80 web.default.svc.~] ar[web.default.svc.~ 5 A 10.96.0.20]
the name of a port has no address
  _http._tcp.web.default.svc.~ A -> NODATA ~
ANY at the name of a port
  _http._tcp.web.default.svc.~ ANY ->
    an[@ 5 SRV 0 100 80 web.default.svc.~] ar[web.default.svc.~ 5 A 10.96.0.20]
a protocol with a named port below it exists
  _tcp.web.default.svc.~ A -> NODATA ~
a protocol with a named port below it has no SRV
  _tcp.web.default.svc.~ SRV -> NODATA ~
a protocol without a port does not exist
  _udp.web.default.svc.~ SRV -> NXDOMAIN ~
a protocol whose ports have no names does not exist
  _tcp.unnamed.default.svc.~ SRV -> NXDOMAIN ~
a named port of another protocol
  _http._udp.web.default.svc.~ SRV -> NXDOMAIN ~
a port that the service does not have
  _other._tcp.web.default.svc.~ SRV -> NXDOMAIN ~
an unnamed port has no name of its own
  _._tcp.unnamed.default.svc.~ SRV -> NXDOMAIN ~
a port by its number
  _80._tcp.web.default.svc.~ SRV -> NXDOMAIN ~
a port without its protocol
  _http.web.default.svc.~ SRV -> NXDOMAIN ~
a port without underscores
  http.tcp.web.default.svc.~ SRV -> NXDOMAIN ~
a protocol that is none
  _http._icmp.web.default.svc.~ SRV -> NXDOMAIN ~
a port of an endpoint of the service, by the name it has there
  _https._tcp.kubernetes.default.svc.~ SRV ->
    an[@ 5 SRV 0 100 443 kubernetes.default.svc.~] ar[kubernetes.default.svc.~ 5 A 10.96.0.1]
";

const ENDPOINTS: &str = "
an endpoint below a cluster IP is called by its address
  10-244-0-2.web.default.svc.~ A -> an[@ 5 A 10.244.0.2]
another endpoint of the same service
  10-244-1-2.web.default.svc.~ A -> an[@ 5 A 10.244.1.2]
an endpoint below a cluster IP is called by its hostname
  canary.web.default.svc.~ A -> an[@ 5 A 10.244.1.4]
casing of an endpoint's name is the client's
  CANARY.web.default.svc.~ A -> an[@ 5 A 10.244.1.4]
an endpoint with a hostname is not called by its address
  10-244-1-4.web.default.svc.~ A -> NXDOMAIN ~
an endpoint that is not ready has no name
  10-244-1-3.web.default.svc.~ A -> NXDOMAIN ~
the cluster IP is no endpoint
  10-96-0-20.web.default.svc.~ A -> NXDOMAIN ~
an endpoint of IPv4 has no AAAA
  10-244-0-2.web.default.svc.~ AAAA -> NODATA ~
an endpoint with a hostname has no TXT
  canary.web.default.svc.~ TXT -> NODATA ~
an endpoint has SRV with its own ports
  10-244-0-2.web.default.svc.~ SRV -> an[@ 5 SRV 0 100 8080 10-244-0-2.web.default.svc.~] ar[@ 5 A 10.244.0.2]
an endpoint with a hostname has SRV
  canary.web.default.svc.~ SRV -> an[@ 5 SRV 0 100 8080 canary.web.default.svc.~] ar[@ 5 A 10.244.1.4]
nothing is below an endpoint
  x.10-244-0-2.web.default.svc.~ A -> NXDOMAIN ~
an endpoint of another service
  10-244-0-2.kubernetes.default.svc.~ A -> NXDOMAIN ~
an endpoint outside of the pods' range
  172-30-0-1.kubernetes.default.svc.~ A -> an[@ 5 A 172.30.0.1]
an address with leading zeros is another name
  10-244-0-02.web.default.svc.~ A -> NXDOMAIN ~
an address with dots is several labels
  10.244.0.2.web.default.svc.~ A -> NXDOMAIN ~
ANY at an endpoint
  10-244-0-2.web.default.svc.~ ANY -> an[@ 5 A 10.244.0.2]
";

const MISSING: &str = "
a service that does not exist
  nothing.default.svc.~ A -> NXDOMAIN ~
whatever the type: AAAA
  nothing.default.svc.~ AAAA -> NXDOMAIN ~
whatever the type: SRV
  nothing.default.svc.~ SRV -> NXDOMAIN ~
whatever the type: TXT
  nothing.default.svc.~ TXT -> NXDOMAIN ~
whatever the type: ANY
  nothing.default.svc.~ ANY -> NXDOMAIN ~
whatever the type: NS
  nothing.default.svc.~ NS -> NXDOMAIN ~
whatever the type: unknown
  nothing.default.svc.~ TYPE65280 -> NXDOMAIN ~
casing of the zone is the client's in a denial
  nothing.default.svc.Cluster.LOCAL A -> NXDOMAIN Cluster.LOCAL.
a service of another namespace
  web.data.svc.~ A -> NXDOMAIN ~
a namespace that does not exist
  web.nowhere.svc.~ A -> NXDOMAIN ~
a port of a service that does not exist
  _http._tcp.nothing.default.svc.~ SRV -> NXDOMAIN ~
an endpoint of a service that does not exist
  10-244-0-2.nothing.default.svc.~ A -> NXDOMAIN ~
no wildcards: any service
  *.default.svc.~ A -> NXDOMAIN ~
no wildcards: any namespace
  web.*.svc.~ A -> NXDOMAIN ~
no wildcards: any endpoint
  *.web.default.svc.~ A -> NXDOMAIN ~
no wildcards: any port
  *._tcp.web.default.svc.~ SRV -> NXDOMAIN ~
the word any is no wildcard
  any.default.svc.~ A -> NXDOMAIN ~
a service without its branch
  web.default.~ A -> NXDOMAIN ~
labels beyond what has a meaning
  a._http._tcp.web.default.svc.~ SRV -> NXDOMAIN ~
more labels beyond what has a meaning
  a.b.c.d.e.f.g.web.default.svc.~ A -> NXDOMAIN ~
the search path's own leavings: a name of the zone below its namespace
  web.default.svc.~.default.svc.~ A -> NXDOMAIN ~
the search path's own leavings: below svc
  web.default.svc.~.svc.~ A -> NXDOMAIN ~
the search path's own leavings: below the zone
  web.default.svc.~.~ A -> NXDOMAIN ~
the search path's own leavings: a foreign name below a namespace
  www.example.com.default.svc.~ A -> NXDOMAIN ~
a label of 63 octets
  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.default.svc.~ A -> NXDOMAIN ~
";

const EMPTY_IGNORED: &str = "
when asked so, a service without a ready endpoint does not exist
  dual.default.svc.~ A -> NXDOMAIN ~
nor do its ports
  _http._tcp.dual.default.svc.~ SRV -> NXDOMAIN ~
nor has its cluster IP a name
  30.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
one with a ready endpoint does
  web.default.svc.~ A -> an[@ 5 A 10.96.0.20]
";
