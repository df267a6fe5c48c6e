//! Pod names, in the three modes.

use super::{Table, sample, with_verified_pods, without_pods};

pub const TABLES: &[Table] = &[
    Table { cluster: sample, cases: INSECURE },
    Table { cluster: with_verified_pods, cases: VERIFIED },
    Table { cluster: without_pods, cases: DISABLED },
];

const INSECURE: &str = "
any address has a name in a namespace that exists
  10-244-0-2.default.pod.~ A -> an[@ 5 A 10.244.0.2]
also one that nobody has
  192-0-2-200.data.pod.~ A -> an[@ 5 A 192.0.2.200]
an address of IPv4 has no AAAA
  10-244-0-2.default.pod.~ AAAA -> NODATA ~
an address has no SRV
  10-244-0-2.default.pod.~ SRV -> NODATA ~
an address has no TXT
  10-244-0-2.default.pod.~ TXT -> NODATA ~
ANY gets the address
  10-244-0-2.default.pod.~ ANY -> an[@ 5 A 10.244.0.2]
casing is the client's
  10-244-0-2.DEFAULT.Pod.~ A -> an[@ 5 A 10.244.0.2]
an address of IPv6
  fd00--9.default.pod.~ AAAA -> an[@ 5 AAAA fd00::9]
an address of IPv6 that starts with its gap
  --1.default.pod.~ AAAA -> an[@ 5 AAAA ::1]
an address of IPv6 without a gap
  1-2-3-4-5-6-7-8.default.pod.~ AAAA -> an[@ 5 AAAA 1:2:3:4:5:6:7:8]
an address of IPv6 has no A
  FD00--9.default.pod.~ A -> NODATA ~
three numbers are no address
  10-244-0.default.pod.~ A -> NXDOMAIN ~
five numbers are no address
  10-244-0-2-1.default.pod.~ A -> NXDOMAIN ~
a number that no octet has
  10-244-0-256.default.pod.~ A -> NXDOMAIN ~
a number with a leading zero
  10-244-0-02.default.pod.~ A -> NXDOMAIN ~
two gaps
  fd00--1--2.default.pod.~ AAAA -> NXDOMAIN ~
the name of a pod is not its DNS name
  client.default.pod.~ A -> NXDOMAIN ~
whatever the type
  client.default.pod.~ TXT -> NXDOMAIN ~
a namespace that does not exist
  10-244-0-2.nowhere.pod.~ A -> NXDOMAIN ~
a namespace with nothing but a pod exists
  10-244-0-78.jobs.pod.~ A -> an[@ 5 A 10.244.0.78]
nothing is below an address
  x.10-244-0-2.default.pod.~ A -> NXDOMAIN ~
an address without a namespace
  10-244-0-2.pod.~ A -> NXDOMAIN ~
an address below svc is a service that does not exist
  10-244-0-2.default.svc.~ A -> NXDOMAIN ~
a service below pod does not exist
  web.default.pod.~ A -> NXDOMAIN ~
the namespace itself
  default.pod.~ A -> NODATA ~
a namespace with nothing but a pod
  jobs.pod.~ A -> NODATA ~
a namespace that does not exist, itself
  nowhere.pod.~ A -> NXDOMAIN ~
";

const VERIFIED: &str = "
the address of a pod has a name
  10-244-0-77.default.pod.~ A -> an[@ 5 A 10.244.0.77]
its address of IPv6, too
  fd00--77.default.pod.~ AAAA -> an[@ 5 AAAA fd00::77]
casing is the client's
  10-244-0-77.DEFAULT.pod.~ A -> an[@ 5 A 10.244.0.77]
an address of IPv4 has no AAAA
  10-244-0-77.default.pod.~ AAAA -> NODATA ~
not in another namespace
  10-244-0-77.data.pod.~ A -> NXDOMAIN ~
an address that no pod has
  192-0-2-200.default.pod.~ A -> NXDOMAIN ~
an endpoint is no pod for that
  172-30-0-1.default.pod.~ A -> NXDOMAIN ~
the namespace itself
  default.pod.~ A -> NODATA ~
a namespace with nothing but a pod
  10-244-0-78.jobs.pod.~ A -> an[@ 5 A 10.244.0.78]
";

const DISABLED: &str = "
no address has a name
  10-244-0-77.default.pod.~ A -> NXDOMAIN ~
nor has one of IPv6
  fd00--77.default.pod.~ AAAA -> NXDOMAIN ~
nor does a namespace exist
  default.pod.~ A -> NXDOMAIN ~
the branch exists
  pod.~ A -> NODATA ~
services are there
  web.default.svc.~ A -> an[@ 5 A 10.96.0.20]
";
