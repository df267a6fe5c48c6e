//! What is asked, but is no type of records.

use super::{Table, forwarding, sample};

pub const TABLES: &[Table] =
    &[Table { cluster: sample, cases: REFUSED }, Table { cluster: forwarding, cases: REFUSED_AS_WELL }];

const REFUSED: &str = "
a whole zone is refused to who may not have it
  ~ AXFR -> Refused
also when asked for its changes
  ~ IXFR -> Refused
a whole zone below the zone
  default.svc.~ AXFR -> Refused
a whole reverse zone
  in-addr.arpa AXFR -> Refused
OPT is no question
  web.default.svc.~ OPT -> Refused
nor is TSIG
  web.default.svc.~ TSIG -> Refused
nor is type zero
  web.default.svc.~ TYPE0 -> Refused
";

const REFUSED_AS_WELL: &str = "
a foreign zone is not asked for
  example.com AXFR -> Refused ra
a zone of ours is not either
  ~ AXFR -> Refused ra
";
