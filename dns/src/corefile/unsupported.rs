//! Directives that CoreDNS has and this server does not, each with what to do instead.

use super::Error;
use super::tree::Directive;

/// By name: what to do.
const ADVICE: &[(&str, &str)] = &[
    (
        "template",
        "answers made from patterns are not supported: put fixed names into `hosts`, or `forward` the zone to a server that makes them",
    ),
    ("import", "write the lines of the file or snippet in its place"),
    ("file", "zones from files are not supported: serve the zone elsewhere and `forward` it"),
    ("auto", "zones from files are not supported: serve the zones elsewhere and `forward` them"),
    ("secondary", "zone transfers are not supported: `forward` the zone to its primary"),
    ("transfer", "zone transfers are not offered; remove it"),
    ("etcd", "names from etcd are not supported: serve the zone elsewhere and `forward` it"),
    ("route53", "names of cloud providers are not supported: `forward` the zone to the provider's resolver"),
    ("azure", "names of cloud providers are not supported: `forward` the zone to the provider's resolver"),
    ("clouddns", "names of cloud providers are not supported: `forward` the zone to the provider's resolver"),
    ("k8s_external", "external names of services are not supported: publish them in a zone of its own"),
    ("federation", "it went with CoreDNS 1.7; remove it"),
    ("proxy", "it went with CoreDNS 1.5: write `forward`"),
    ("upstream", "it went with CoreDNS 1.5; remove it"),
    ("grpc", "upstreams over gRPC are not supported: use `forward`"),
    ("tls", "serve the zone as plain DNS and let TLS be ended elsewhere"),
    ("quic", "serve the zone as plain DNS"),
    ("dnssec", "answers are not signed; remove it"),
    ("sign", "zones are not signed; remove it"),
    ("tsig", "keys of transactions are not supported; remove it"),
    ("dns64", "addresses are not synthesised: leave that to the upstreams and remove it"),
    ("dnstap", "it is not supported: use `log`, which samples"),
    ("trace", "it is not supported: use `log` and the metrics"),
    ("pprof", "it profiles Go; remove it"),
    ("nsid", "servers do not name themselves in answers; remove it"),
    ("debug", "set RUST_LOG for the process instead"),
    ("timeouts", "timeouts of streams are fixed; remove it"),
    ("chaos", "version.bind is answered as it is; remove it"),
    ("view", "use server blocks with addresses of their own (`bind`)"),
    ("geoip", "it is not supported; remove it"),
    ("metadata", "nothing here uses it; remove it"),
    ("header", "flags of answers follow the standard; remove it"),
    ("local", "use `hosts` for localhost"),
    ("root", "no file is read relative to it; remove it and write whole paths"),
    ("whoami", "it is for tests; remove it"),
    ("erratic", "it is for tests; remove it"),
    ("on", "commands are not run; remove it"),
    ("nomad", "names of Nomad are not supported: `forward` the zone"),
];

pub fn error(directive: &Directive) -> Error {
    match ADVICE.iter().find(|(name, _)| *name == directive.name) {
        Some((_, advice)) => directive.error("not supported", *advice),
        None => directive.error("unknown directive", "check its spelling against https://coredns.io/plugins, or remove it"),
    }
}
