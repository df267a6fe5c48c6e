//! The zone itself, several zones, TTLs, namespaces, and the time before the first sync.

use super::{
    Table, forwarding, forwarding_unsynced, longest_ttl, only_data, passing_on, sample, two_zones, unsynced, without_kube_dns,
    without_ttl,
};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: APEX },
    Table { cluster: sample, cases: BETWEEN },
    Table { cluster: without_kube_dns, cases: OWN_ADDRESS },
    Table { cluster: two_zones, cases: SEVERAL },
    Table { cluster: sample, cases: FOREIGN },
    Table { cluster: forwarding, cases: FOREIGN_FORWARDED },
    Table { cluster: passing_on, cases: PASSED_ON },
    Table { cluster: unsynced, cases: UNSYNCED },
    Table { cluster: forwarding_unsynced, cases: UNSYNCED_FORWARDED },
    Table { cluster: only_data, cases: NAMESPACES },
    Table { cluster: without_ttl, cases: NO_TTL },
    Table { cluster: longest_ttl, cases: LONGEST_TTL },
];

const APEX: &str = "
the version of the schema
  dns-version.~ TXT -> an[@ 28800 TXT 1.1.0]
casing of the version's name is the client's
  DNS-Version.~ TXT -> an[@ 28800 TXT 1.1.0]
the version is nothing but text
  dns-version.~ A -> NODATA ~
ANY at the version
  dns-version.~ ANY -> an[@ 28800 TXT 1.1.0]
nothing is below the version
  x.dns-version.~ TXT -> NXDOMAIN ~
the SOA
  ~ SOA -> an[@ SOA]
casing of the SOA's owner is the client's
  CLUSTER.local SOA -> an[@ SOA]
the name server, with its address
  ~ NS -> an[@ 5 NS ns.dns.~] ar[ns.dns.~ 5 A 10.96.0.10]
the address of the name server is that of kube-dns
  ns.dns.~ A -> an[@ 5 A 10.96.0.10]
which is of IPv4
  ns.dns.~ AAAA -> NODATA ~
ANY at the name server
  ns.dns.~ ANY -> an[@ 5 A 10.96.0.10]
nothing is below the name server
  x.ns.dns.~ A -> NXDOMAIN ~
ANY at the zone gets the SOA
  ~ ANY -> an[@ SOA]
the zone has no address
  ~ A -> NODATA @
the zone has no TXT
  ~ TXT -> NODATA @
";

const BETWEEN: &str = "
the branch of services
  svc.~ A -> NODATA ~
the branch of services, any type
  svc.~ NS -> NODATA ~
the branch of services, ANY
  svc.~ ANY -> NODATA ~
the branch of pods
  pod.~ A -> NODATA ~
the branch of the name server
  dns.~ A -> NODATA ~
a namespace with services
  default.svc.~ A -> NODATA ~
a namespace with services, any type
  default.svc.~ SRV -> NODATA ~
a namespace with services that have no name now
  data.svc.~ TXT -> NODATA ~
casing of a namespace
  DEFAULT.Svc.~ A -> NODATA ~
a namespace that does not exist
  nowhere.svc.~ A -> NXDOMAIN ~
a branch that does not exist
  default.~ A -> NXDOMAIN ~
a name that nothing has
  web.~ A -> NXDOMAIN ~
a name that nothing has, as name server
  foo.~ NS -> NXDOMAIN ~
hostmaster is a mailbox, not a name
  hostmaster.~ A -> NXDOMAIN ~
";

const OWN_ADDRESS: &str = "
without a kube-dns service the name server is where this one listens
  ns.dns.~ A -> an[@ 5 A 172.30.0.11]
and so says NS
  ~ NS -> an[@ 5 NS ns.dns.~] ar[ns.dns.~ 5 A 172.30.0.11]
";

const SEVERAL: &str = "
the same service in the first zone
  web.default.svc.~ A -> an[@ 5 A 10.96.0.20]
the same service in another zone
  web.default.svc.corp.example A -> an[@ 5 A 10.96.0.20]
targets are in the zone that was asked
  _http._tcp.web.default.svc.corp.example SRV ->
    an[@ 5 SRV 0 100 80 web.default.svc.corp.example.] ar[web.default.svc.corp.example. 5 A 10.96.0.20]
targets of a headless service are in the zone that was asked
  _mysql._tcp.db.data.svc.corp.example SRV ->
    an[@ 5 SRV 0 50 3306 db-0.db.data.svc.corp.example.; @ 5 SRV 0 50 3306 db-1.db.data.svc.corp.example.]
    ar[db-0.db.data.svc.corp.example. 5 A 10.244.0.5; db-1.db.data.svc.corp.example. 5 A 10.244.1.5]
an endpoint in another zone
  db-0.db.data.svc.corp.example A -> an[@ 5 A 10.244.0.5]
a pod in another zone
  10-244-0-2.default.pod.corp.example A -> an[@ 5 A 10.244.0.2]
another zone's SOA
  corp.example SOA -> an[@ SOA]
another zone's name server
  corp.example NS -> an[@ 5 NS ns.dns.corp.example.] ar[ns.dns.corp.example. 5 A 10.96.0.10]
another zone's version
  dns-version.corp.example TXT -> an[@ 28800 TXT 1.1.0]
a denial comes with the SOA of its zone
  nothing.default.svc.corp.example A -> NXDOMAIN corp.example.
NODATA comes with the SOA of its zone
  web.default.svc.corp.example AAAA -> NODATA corp.example.
casing of another zone
  web.default.svc.CORP.example AAAA -> NODATA CORP.example.
a zone inside of another is its own
  web.default.svc.inner.corp.example A -> an[@ 5 A 10.96.0.20]
and denies by itself
  nothing.inner.corp.example A -> NXDOMAIN inner.corp.example.
a zone does not continue in another
  web.default.svc.~.corp.example A -> NXDOMAIN corp.example.
the domain above is not ours
  example A -> Refused
a domain that only ends alike
  web.default.svc.xcorp.example A -> Refused
";

const FOREIGN: &str = "
without upstreams a foreign name is refused
  www.example.com A -> Refused
so is a domain that only ends like ours
  xcluster.local A -> Refused
so is the domain above
  local A -> Refused
so is a name that goes on after our zone
  cluster.local.example.com A -> Refused
so is the root
  . NS -> Refused
so are special domains
  localhost A -> Refused
";

const FOREIGN_FORWARDED: &str = "
a foreign name is for the upstreams
  www.example.com A -> Forward
so is the domain above
  local A -> Forward
so is the root
  . NS -> Forward
a name of ours is not
  web.default.svc.~ A -> NoError aa ra an[@ 5 A 10.96.0.20]
nor is its denial
  nothing.default.svc.~ A -> NXDomain aa ra ns[~ SOA]
nor is a type that it does not have
  web.default.svc.~ TXT -> NoError aa ra ns[~ SOA]
";

const PASSED_ON: &str = "
where unknown names are passed on, known ones are not
  web.default.svc.~ A -> NoError aa ra an[@ 5 A 10.96.0.20]
nor are types that a known name does not have
  web.default.svc.~ AAAA -> NoError aa ra ns[~ SOA]
nor is a namespace
  default.svc.~ A -> NoError aa ra ns[~ SOA]
unknown services are
  nothing.default.svc.~ A -> Forward
unknown branches are
  www.~ A -> Forward
unknown addresses are
  9.9.9.9.in-addr.arpa PTR -> Forward
an alias to an unknown name leaves its target to the upstreams
  dangling.ext.svc.~ A -> NoError aa ra an[@ 5 CNAME nothing.default.svc.~]
";

const UNSYNCED: &str = "
before the first sync a service is not denied
  web.default.svc.~ A -> ServFail
nor is anything else: the zone
  ~ SOA -> ServFail
nor the version
  dns-version.~ TXT -> ServFail
nor an address
  20.0.96.10.in-addr.arpa PTR -> ServFail
nor a pod
  10-244-0-2.default.pod.~ A -> ServFail
what is known already is not said either
  early.default.svc.~ A -> ServFail
foreign names do not depend on it
  www.example.com A -> Refused
";

const UNSYNCED_FORWARDED: &str = "
an address may yet be ours
  20.0.96.10.in-addr.arpa PTR -> ServFail ra
a name of ours
  web.default.svc.~ A -> ServFail ra
foreign names are for the upstreams
  www.example.com A -> Forward
";

const NAMESPACES: &str = "
a service of a namespace that is shown
  db.data.svc.~ A -> an[@ 5 A 10.244.0.5; @ 5 A 10.244.1.5]
a service of another
  web.default.svc.~ A -> NXDOMAIN ~
the other namespace itself
  default.svc.~ A -> NXDOMAIN ~
an address in a namespace that is shown
  10-0-0-1.data.pod.~ A -> an[@ 5 A 10.0.0.1]
an address in another
  10-0-0-1.default.pod.~ A -> NXDOMAIN ~
the address of a service of another
  20.0.96.10.in-addr.arpa PTR -> NXDOMAIN in-addr.arpa.
the name server's address does not depend on it
  ns.dns.~ A -> an[@ 5 A 10.96.0.10]
";

const NO_TTL: &str = "
a TTL of nothing: A
  web.default.svc.~ A -> an[@ 0 A 10.96.0.20]
a TTL of nothing: PTR
  20.0.96.10.in-addr.arpa PTR -> an[@ 0 PTR web.default.svc.~]
a TTL of nothing: a denial
  nothing.default.svc.~ A -> NXDOMAIN ~
";

const LONGEST_TTL: &str = "
the longest TTL: A
  web.default.svc.~ A -> an[@ 3600 A 10.96.0.20]
the longest TTL: SRV and its address
  web.default.svc.~ SRV -> an[@ 3600 SRV 0 100 80 web.default.svc.~] ar[@ 3600 A 10.96.0.20]
the longest TTL: an alias and its target
  inside.ext.svc.~ A -> an[@ 3600 CNAME web.default.svc.~; web.default.svc.~ 3600 A 10.96.0.20]
the longest TTL: a pod
  10-244-0-2.default.pod.~ A -> an[@ 3600 A 10.244.0.2]
the longest TTL: NS and its address
  ~ NS -> an[@ 3600 NS ns.dns.~] ar[ns.dns.~ 3600 A 10.96.0.10]
the version's TTL is its own
  dns-version.~ TXT -> an[@ 28800 TXT 1.1.0]
";
