//! One invocation from stdin to stdout.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{CallError, Patience, call};
use crate::config::{Config, version_to_echo};
use crate::environment::{Container, Invocation, Variables};
use crate::error::{CniError, code};
use crate::fallback;
use crate::outcome::{Frame, addresses_of};
use crate::protocol::{Add, Attached, Check, Command, MAX_DOCUMENT, PROTOCOL, Reply, Request};
use crate::version::SpecVersion;

/// An agent that is being restarted is back within these.
const CONNECT: Duration = Duration::from_secs(3);
const ADD: Patience = Patience { connect: CONNECT, total: Duration::from_secs(60) };
/// A DEL never waits for an agent that is not there: the fallback does it.
const DEL: Patience = Patience { connect: Duration::ZERO, total: Duration::from_secs(10) };
const STATUS: Patience = Patience { connect: Duration::ZERO, total: Duration::from_secs(5) };

/// Runs one command; prints its result (if it has one) or the error object. Exit code 0 or 1.
pub fn run(variables: Variables<'_>, stdin: &mut dyn Read, stdout: &mut dyn Write) -> ExitCode {
    let mut input = Vec::new();
    // A VERSION by hand has a terminal as stdin; whatever is read is judged by who needs it.
    let read = stdin.take(MAX_DOCUMENT).read_to_end(&mut input);
    let result = match read {
        Ok(_) => execute(variables, &input),
        Err(error) => Err(CniError::new(code::IO, "stdin cannot be read").details(error)),
    };
    let (document, exit) = match result {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(error) => (error_document(&error, &input), ExitCode::FAILURE),
    };
    // A runtime that closed our stdout has gone; the exit code must not claim success then.
    if writeln!(stdout, "{document}").and_then(|()| stdout.flush()).is_err() {
        return ExitCode::FAILURE;
    }
    exit
}

fn execute(variables: Variables<'_>, input: &[u8]) -> Result<Option<Value>, CniError> {
    let invocation = Invocation::parse(variables)?;
    if invocation == Invocation::Version {
        let spoken = SpecVersion::ALL.map(SpecVersion::as_str);
        return Ok(Some(json!({"cniVersion": version_to_echo(input)?, "supportedVersions": spoken})));
    }
    let config = Config::parse(input)?;
    match invocation {
        Invocation::Add(container) => add(&config, container).map(Some),
        Invocation::Del(container) => del(&config, container).map(|()| None),
        Invocation::Check(container) => check(&config, container).map(|()| None),
        Invocation::Gc => gc(&config).map(|()| None),
        Invocation::Status => status(&config).map(|()| None),
        Invocation::Version => Ok(None),
    }
}

fn add(config: &Config, container: Container) -> Result<Value, CniError> {
    config.check_supported()?;
    let (ips, mac) = (config.requested_ips(&container)?, config.requested_mac(&container)?);
    let host_ports = config.host_ports()?;
    let netns_path = container.netns.unwrap_or_default();
    let netns = open_netns(&netns_path)?;
    let ifname = container.id.ifname.clone();
    let netns_hint = Some(netns_path.clone());
    let command = Command::Add(Add { id: container.id, pod: container.pod, ips, mac, netns: netns_hint, host_ports });
    let attached: Attached =
        match ask(config, command, Some(&netns), ADD).map_err(|error| unavailable(config, code::TRY_AGAIN, &error))? {
            Reply::Added(attached) => attached,
            Reply::Failed(error) => return Err(error),
            Reply::Done => return Err(CniError::new(code::INTERNAL, "the agent answered ADD without a result")),
        };
    let frame = Frame {
        version: config.version,
        ifname: &ifname,
        netns: &netns_path,
        dns: config.dns.as_ref(),
        prev_result: config.prev_result.as_ref(),
    };
    Ok(frame.result(&attached))
}

fn del(config: &Config, container: Container) -> Result<(), CniError> {
    match ask(config, Command::Del(container.id.clone()), None, DEL) {
        Ok(reply) => done(reply),
        Err(_) => fallback::remove(&config.state_dir, &config.name, &container.id, container.netns.as_deref()),
    }
}

fn check(config: &Config, container: Container) -> Result<(), CniError> {
    if !config.version.has_check() {
        return Err(not_in(config.version, "CHECK"));
    }
    config.check_supported()?;
    let netns_path = container.netns.unwrap_or_default();
    let ips = addresses_of(config.prev_result.as_ref(), &container.id.ifname, &netns_path)?;
    let netns = open_netns(&netns_path)?;
    done(
        ask(config, Command::Check(Check { id: container.id, ips }), Some(&netns), ADD)
            .map_err(|error| unavailable(config, code::TRY_AGAIN, &error))?,
    )
}

fn gc(config: &Config) -> Result<(), CniError> {
    if !config.version.has_gc_and_status() {
        return Err(not_in(config.version, "GC"));
    }
    // A list that is absent must not mean "nothing is valid".
    let valid = config
        .valid_attachments
        .clone()
        .ok_or_else(|| CniError::new(code::INVALID_CONFIG, "GC needs the list cni.dev/valid-attachments"))?;
    done(ask(config, Command::Gc(valid), None, ADD).map_err(|error| unavailable(config, code::TRY_AGAIN, &error))?)
}

fn status(config: &Config) -> Result<(), CniError> {
    if !config.version.has_gc_and_status() {
        return Err(not_in(config.version, "STATUS"));
    }
    let reply = ask(config, Command::Status, None, STATUS).map_err(|error| unavailable(config, code::UNAVAILABLE, &error))?;
    done(reply)
}

fn ask(config: &Config, command: Command, netns: Option<&File>, patience: Patience) -> Result<Reply, CallError> {
    let request = Request { protocol: PROTOCOL, network: config.name.clone(), command };
    call(&config.socket, &request, netns.map(AsFd::as_fd), patience)
}

fn done(reply: Reply) -> Result<(), CniError> {
    match reply {
        Reply::Failed(error) => Err(error),
        Reply::Done | Reply::Added(_) => Ok(()),
    }
}

fn unavailable(config: &Config, code: u32, error: &CallError) -> CniError {
    let socket = config.socket.display();
    CniError::new(code, "the node agent is not available")
        .details(format_args!("{error}; socket {socket}: does the thalweg agent run on this node?"))
}

fn not_in(version: SpecVersion, command: &str) -> CniError {
    CniError::new(code::INCOMPATIBLE_VERSION, format!("CNI version {version} has no {command}"))
}

/// Error 3 tells the runtime that there is nothing to clean up.
fn open_netns(path: &Path) -> Result<File, CniError> {
    let netns = File::open(path).map_err(|error| {
        CniError::new(code::UNKNOWN_CONTAINER, format!("network namespace {} cannot be opened", path.display())).details(error)
    })?;
    match fallback::is_own_namespace(&netns) {
        Ok(false) => Ok(netns),
        Ok(true) => {
            Err(CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS {} is the host's own namespace", path.display())))
        }
        Err(error) => Err(CniError::new(code::IO, format!("{} cannot be read", path.display())).details(error)),
    }
}

/// The version of an error is the configuration's where it can be read.
fn error_document(error: &CniError, input: &[u8]) -> Value {
    let version = version_to_echo(input).unwrap_or_else(|_| SpecVersion::LATEST.to_string());
    let mut document = json!({"cniVersion": version, "code": error.code, "msg": error.msg});
    if !error.details.is_empty() {
        document["details"] = json!(error.details);
    }
    document
}
