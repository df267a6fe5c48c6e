//! Headless services: their names stand for their endpoints.

use super::{Table, sample, sample_with_pod_names};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: ADDRESSES },
    Table { cluster: sample, cases: HOSTS },
    Table { cluster: sample, cases: PORTS },
    Table { cluster: sample_with_pod_names, cases: POD_NAMES },
];

const ADDRESSES: &str = "
a headless service has the addresses of its ready endpoints
  db.data.svc.~ A -> an[@ 5 A 10.244.0.5; @ 5 A 10.244.1.5]
one of IPv4 has no AAAA
  db.data.svc.~ AAAA -> NODATA ~
one with endpoints of both families: A
  peers.data.svc.~ A -> an[@ 5 A 10.244.0.6]
one with endpoints of both families: AAAA
  peers.data.svc.~ AAAA -> an[@ 5 AAAA fd00::6]
casing is the client's in every record
  DB.Data.svc.~ A -> an[@ 5 A 10.244.0.5; @ 5 A 10.244.1.5]
without a ready endpoint it does not exist
  none.data.svc.~ A -> NXDOMAIN ~
nor does it for AAAA
  none.data.svc.~ AAAA -> NXDOMAIN ~
nor does it for SRV
  none.data.svc.~ SRV -> NXDOMAIN ~
nor does its endpoint that is not ready
  10-244-0-7.none.data.svc.~ A -> NXDOMAIN ~
nor do its ports
  _http._tcp.none.data.svc.~ SRV -> NXDOMAIN ~
endpoints that are not ready are published where the service says so
  early.data.svc.~ A -> an[@ 5 A 10.244.0.8]
one without ports has addresses
  portless.data.svc.~ A -> an[@ 5 A 10.244.0.9]
an address that stands in several endpoints is said once
  twice.data.svc.~ A -> an[@ 5 A 10.244.0.17]
endpoints of several slices are one answer
  split.data.svc.~ A -> an[@ 5 A 10.244.0.15; @ 5 A 10.244.0.16]
a hostname of several endpoints and an address beside it
  dup.data.svc.~ A -> an[@ 5 A 10.244.0.12; @ 5 A 10.244.0.13; @ 5 A 10.244.0.14]
types that it does not have
  db.data.svc.~ TXT -> NODATA ~
CNAME is not what it has
  db.data.svc.~ CNAME -> NODATA ~
ANY gets its addresses
  peers.data.svc.~ ANY -> an[@ 5 A 10.244.0.6]
";

const HOSTS: &str = "
an endpoint is called by its hostname
  db-0.db.data.svc.~ A -> an[@ 5 A 10.244.0.5]
a hostname is matched without regard to casing
  db-1.db.data.svc.~ A -> an[@ 5 A 10.244.1.5]
casing of the hostname is the client's
  Db-1.db.data.svc.~ A -> an[@ 5 A 10.244.1.5]
an endpoint that is not ready has no name
  db-2.db.data.svc.~ A -> NXDOMAIN ~
a hostname that is none
  db-3.db.data.svc.~ A -> NXDOMAIN ~
the start of a hostname is none
  db.db.data.svc.~ A -> NXDOMAIN ~
an endpoint with a hostname is not called by its address
  10-244-0-5.db.data.svc.~ A -> NXDOMAIN ~
a hostname of IPv4 has no AAAA
  db-0.db.data.svc.~ AAAA -> NODATA ~
an endpoint without a hostname is called by its address
  10-244-0-6.peers.data.svc.~ A -> an[@ 5 A 10.244.0.6]
an endpoint of IPv6 is called by its address
  fd00--6.peers.data.svc.~ AAAA -> an[@ 5 AAAA fd00::6]
casing of a spelled address is the client's
  FD00--6.peers.data.svc.~ AAAA -> an[@ 5 AAAA fd00::6]
an endpoint of IPv6 has no A
  fd00--6.peers.data.svc.~ A -> NODATA ~
another spelling of the same address is another name
  fd00-0--6.peers.data.svc.~ AAAA -> NXDOMAIN ~
an address that is no endpoint's
  10-244-0-99.peers.data.svc.~ A -> NXDOMAIN ~
a hostname with an address of each family: A
  d-0.duo.data.svc.~ A -> an[@ 5 A 10.244.0.11]
a hostname with an address of each family: AAAA
  d-0.duo.data.svc.~ AAAA -> an[@ 5 AAAA fd00::11]
a hostname that several endpoints have
  same.dup.data.svc.~ A -> an[@ 5 A 10.244.0.12; @ 5 A 10.244.0.13]
a hostname of an address that another endpoint has without
  t.twice.data.svc.~ A -> an[@ 5 A 10.244.0.17]
and the other endpoint
  10-244-0-17.twice.data.svc.~ A -> an[@ 5 A 10.244.0.17]
a hostname that spells the address of another endpoint
  10-244-0-19.spelled.data.svc.~ A -> an[@ 5 A 10.244.0.18; @ 5 A 10.244.0.19]
an endpoint that is published before it is ready
  e-0.early.data.svc.~ A -> an[@ 5 A 10.244.0.8]
an endpoint without ports
  10-244-0-9.portless.data.svc.~ A -> an[@ 5 A 10.244.0.9]
a hostname has SRV with its ports
  db-0.db.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 3306 db-0.db.data.svc.~; @ 5 SRV 0 50 9 db-0.db.data.svc.~] ar[@ 5 A 10.244.0.5]
nothing is below a hostname
  x.db-0.db.data.svc.~ A -> NXDOMAIN ~
a hostname of another service
  db-0.peers.data.svc.~ A -> NXDOMAIN ~
";

const PORTS: &str = "
a named port has SRV for every endpoint, with their addresses
  _mysql._tcp.db.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 3306 db-0.db.data.svc.~; @ 5 SRV 0 50 3306 db-1.db.data.svc.~]
    ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]
at the service all ports of all endpoints share the weight
  db.data.svc.~ SRV ->
    an[@ 5 SRV 0 25 3306 db-0.db.data.svc.~; @ 5 SRV 0 25 3306 db-1.db.data.svc.~; @ 5 SRV 0 25 9 db-0.db.data.svc.~;
    @ 5 SRV 0 25 9 db-1.db.data.svc.~] ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]
a port that only the endpoints have
  _x._udp.db.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 9 db-0.db.data.svc.~; @ 5 SRV 0 50 9 db-1.db.data.svc.~]
    ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]
targets without a hostname, of both families
  _http._tcp.peers.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 80 10-244-0-6.peers.data.svc.~; @ 5 SRV 0 50 80 fd00--6.peers.data.svc.~]
    ar[10-244-0-6.peers.data.svc.~ 5 A 10.244.0.6; fd00--6.peers.data.svc.~ 5 AAAA fd00::6]
a target of both families is said once and has both addresses
  _http._tcp.duo.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 80 d-0.duo.data.svc.~] ar[d-0.duo.data.svc.~ 5 A 10.244.0.11; d-0.duo.data.svc.~ 5 AAAA fd00::11]
a target of several endpoints is said once and has all addresses
  _http._tcp.dup.data.svc.~ SRV ->
    an[@ 5 SRV 0 33 80 10-244-0-14.dup.data.svc.~; @ 5 SRV 0 33 80 same.dup.data.svc.~]
    ar[10-244-0-14.dup.data.svc.~ 5 A 10.244.0.14; same.dup.data.svc.~ 5 A 10.244.0.12; same.dup.data.svc.~ 5 A 10.244.0.13]
a named port with another number at each endpoint
  _a._tcp.split.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 1001 10-244-0-15.split.data.svc.~; @ 5 SRV 0 50 1002 10-244-0-16.split.data.svc.~]
    ar[10-244-0-15.split.data.svc.~ 5 A 10.244.0.15; 10-244-0-16.split.data.svc.~ 5 A 10.244.0.16]
a named port that only some endpoints have
  _b._sctp.split.data.svc.~ SRV ->
    an[@ 5 SRV 0 100 7 10-244-0-16.split.data.svc.~] ar[10-244-0-16.split.data.svc.~ 5 A 10.244.0.16]
all ports of endpoints that have different ones
  split.data.svc.~ SRV ->
    an[@ 5 SRV 0 33 1001 10-244-0-15.split.data.svc.~; @ 5 SRV 0 33 1002 10-244-0-16.split.data.svc.~;
    @ 5 SRV 0 33 7 10-244-0-16.split.data.svc.~]
    ar[10-244-0-15.split.data.svc.~ 5 A 10.244.0.15; 10-244-0-16.split.data.svc.~ 5 A 10.244.0.16]
one address under two names is two targets
  twice.data.svc.~ SRV ->
    an[@ 5 SRV 0 50 80 10-244-0-17.twice.data.svc.~; @ 5 SRV 0 50 80 t.twice.data.svc.~]
    ar[10-244-0-17.twice.data.svc.~ 5 A 10.244.0.17; t.twice.data.svc.~ 5 A 10.244.0.17]
endpoints that are published before they are ready
  _http._tcp.early.data.svc.~ SRV ->
    an[@ 5 SRV 0 100 80 e-0.early.data.svc.~] ar[e-0.early.data.svc.~ 5 A 10.244.0.8]
without ports there is no SRV
  portless.data.svc.~ SRV -> NODATA ~
a port that no endpoint has
  _other._tcp.db.data.svc.~ SRV -> NXDOMAIN ~
a port of another protocol
  _mysql._udp.db.data.svc.~ SRV -> NXDOMAIN ~
a protocol with a port below it exists
  _udp.db.data.svc.~ A -> NODATA ~
a protocol without a port does not exist
  _sctp.db.data.svc.~ A -> NXDOMAIN ~
";

const POD_NAMES: &str = "
when asked so, an endpoint without a hostname is called by its pod
  pod-a.db.data.svc.~ A -> an[@ 5 A 10.244.9.1]
a hostname goes before the pod's name
  host-b.db.data.svc.~ A -> an[@ 5 A 10.244.9.2]
then the pod's name is none
  pod-b.db.data.svc.~ A -> NXDOMAIN ~
the address is no name of one that has a pod
  10-244-9-1.db.data.svc.~ A -> NXDOMAIN ~
the address is the name of one that is no pod
  10-244-9-3.db.data.svc.~ A -> an[@ 5 A 10.244.9.3]
SRV names the pod
  _p._tcp.db.data.svc.~ SRV ->
    an[@ 5 SRV 0 33 1 10-244-9-3.db.data.svc.~; @ 5 SRV 0 33 1 host-b.db.data.svc.~; @ 5 SRV 0 33 1 pod-a.db.data.svc.~]
    ar[10-244-9-3.db.data.svc.~ 5 A 10.244.9.3; host-b.db.data.svc.~ 5 A 10.244.9.2; pod-a.db.data.svc.~ 5 A 10.244.9.1]
the reverse name names the pod
  1.9.244.10.in-addr.arpa PTR -> an[@ 5 PTR pod-a.db.data.svc.~]
";
