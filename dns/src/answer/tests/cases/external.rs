//! ExternalName: aliases, and what becomes of their targets.

use super::{Table, forwarding, sample, two_zones};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: ALIASES },
    Table { cluster: forwarding, cases: FORWARDED },
    Table { cluster: two_zones, cases: ACROSS_ZONES },
];

const ALIASES: &str = "
an alias to a foreign name
  docs.ext.svc.~ A -> an[@ 5 CNAME docs.example.com.]
the same for AAAA
  docs.ext.svc.~ AAAA -> an[@ 5 CNAME docs.example.com.]
the same for any other type
  docs.ext.svc.~ TXT -> an[@ 5 CNAME docs.example.com.]
the alias itself
  docs.ext.svc.~ CNAME -> an[@ 5 CNAME docs.example.com.]
ANY gets the alias
  docs.ext.svc.~ ANY -> an[@ 5 CNAME docs.example.com.]
casing is the client's
  DOCS.ext.svc.~ CNAME -> an[@ 5 CNAME docs.example.com.]
an alias to a name of the zone is followed
  inside.ext.svc.~ A -> an[@ 5 CNAME web.default.svc.~; web.default.svc.~ 5 A 10.96.0.20]
the alias itself is not followed
  inside.ext.svc.~ CNAME -> an[@ 5 CNAME web.default.svc.~]
a target without the type: the alias, and NODATA
  inside.ext.svc.~ AAAA -> an[@ 5 CNAME web.default.svc.~] ns[~ SOA]
SRV of the target
  inside.ext.svc.~ SRV ->
    an[@ 5 CNAME web.default.svc.~; web.default.svc.~ 5 SRV 0 100 80 web.default.svc.~] ar[web.default.svc.~ 5 A 10.96.0.20]
an alias to an alias
  chain.ext.svc.~ A ->
    an[@ 5 CNAME inside.ext.svc.~; inside.ext.svc.~ 5 CNAME web.default.svc.~; web.default.svc.~ 5 A 10.96.0.20]
an alias to a headless service
  set.ext.svc.~ A ->
    an[@ 5 CNAME db.data.svc.~; db.data.svc.~ 5 A 10.244.0.5; db.data.svc.~ 5 A 10.244.1.5]
SRV of a headless target
  set.ext.svc.~ SRV ->
    an[@ 5 CNAME db.data.svc.~; db.data.svc.~ 5 SRV 0 25 3306 db-0.db.data.svc.~; db.data.svc.~ 5 SRV 0 25 3306 db-1.db.data.svc.~;
    db.data.svc.~ 5 SRV 0 25 9 db-0.db.data.svc.~; db.data.svc.~ 5 SRV 0 25 9 db-1.db.data.svc.~]
    ar[db-0.db.data.svc.~ 5 A 10.244.0.5; db-1.db.data.svc.~ 5 A 10.244.1.5]
an alias to an endpoint
  member.ext.svc.~ A -> an[@ 5 CNAME db-0.db.data.svc.~; db-0.db.data.svc.~ 5 A 10.244.0.5]
an alias to a pod
  pod.ext.svc.~ A -> an[@ 5 CNAME 10-0-0-9.default.pod.~; 10-0-0-9.default.pod.~ 5 A 10.0.0.9]
an alias to a name that does not exist: the alias, and the denial of its target
  dangling.ext.svc.~ A -> NXDomain aa an[@ 5 CNAME nothing.default.svc.~] ns[~ SOA]
an alias of itself is said once
  round.ext.svc.~ A -> an[@ 5 CNAME round.ext.svc.~]
two aliases of each other are said once each
  ping.ext.svc.~ A -> an[@ 5 CNAME pong.ext.svc.~; pong.ext.svc.~ 5 CNAME ping.ext.svc.~]
a target that is an address is none
  number.ext.svc.~ A -> NODATA ~
a target that is no name is none
  bad.ext.svc.~ A -> NODATA ~
nothing is below an alias
  x.docs.ext.svc.~ A -> NXDOMAIN ~
an alias has no ports
  _http._tcp.docs.ext.svc.~ SRV -> NXDOMAIN ~
the namespace of aliases exists
  ext.svc.~ A -> NODATA ~
";

const FORWARDED: &str = "
a foreign target is for the upstreams, the alias is ours
  docs.ext.svc.~ A -> NoError aa ra an[@ 5 CNAME docs.example.com.]
a target in the zone is not for the upstreams
  inside.ext.svc.~ A -> NoError aa ra an[@ 5 CNAME web.default.svc.~; web.default.svc.~ 5 A 10.96.0.20]
nor is a target that does not exist
  dangling.ext.svc.~ A -> NXDomain aa ra an[@ 5 CNAME nothing.default.svc.~] ns[~ SOA]
nor is the alias itself
  docs.ext.svc.~ CNAME -> NoError aa ra an[@ 5 CNAME docs.example.com.]
";

const ACROSS_ZONES: &str = "
a target in another zone of ours is followed
  inside.ext.svc.corp.example A ->
    an[@ 5 CNAME web.default.svc.~; web.default.svc.~ 5 A 10.96.0.20]
a target in another zone of ours is denied with that zone's SOA
  dangling.ext.svc.corp.example A -> NXDomain aa an[@ 5 CNAME nothing.default.svc.~] ns[~ SOA]
targets of SRV are in the zone of the alias's target
  set.ext.svc.corp.example AAAA -> an[@ 5 CNAME db.data.svc.~] ns[~ SOA]
";
