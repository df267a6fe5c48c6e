//! `thalweg explain`: what becomes of one packet on this node, and why.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use thalweg_proxy::inspect::explain::{self, Facts, Origin, Question};

use super::output::{Output, OutputArgs};
use super::source::SourceArgs;
use crate::agent::admin;
use crate::interfaces;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  thalweg explain 10.244.0.5 10.96.0.10:53/udp            a pod asks DNS
  thalweg explain 10.244.0.5:40122 10.96.0.7:80           the flow of one connection
  thalweg explain 198.51.100.7 172.30.0.11:30080/tcp      a client outside dials a NodePort
  thalweg explain fd00::5 '[fd96::7]:80'                  the same in IPv6
  thalweg explain --from outside 10.244.0.5 192.0.2.8:80  as if it came in by the uplink")]
pub struct ExplainArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The agent's folder of sockets: it says which addresses are the node's when it runs
    #[arg(long, default_value = "/run/thalweg", value_name = "FOLDER")]
    run: PathBuf,
    /// Where the packet comes from (unless said: as the source address tells)
    #[arg(long, value_enum)]
    from: Option<From>,
    /// Who sends: ADDRESS, or ADDRESS:PORT for a connection under way
    #[arg(value_name = "SRC")]
    sender: String,
    /// Who is dialled: ADDRESS:PORT/PROTOCOL; the protocol is tcp unless said, and icmp has no port
    #[arg(value_name = "DST")]
    dialled: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// A pod of this node
    Pod,
    /// A process of the node itself
    Node,
    /// Another node, or outside of the cluster
    Outside,
}

/// # Errors
/// When the question is not clear, or the maps cannot be read.
pub fn explain(args: &ExplainArgs) -> Result<()> {
    let from = args.from.map(|from| match from {
        From::Pod => Origin::Pod,
        From::Node => Origin::Node,
        From::Outside => Origin::Outside,
    });
    let question = Question::parse(&args.sender, &args.dialled, from)?;
    let maps = args.source.open()?;
    args.output.repeat(|| {
        let facts = facts(args)?;
        let explanation = explain::explain(&maps, &facts, &question, thalweg_loader::conntrack::now())?;
        match args.output.output {
            Output::Json => args.output.json(&explanation),
            Output::Table | Output::Wide => Ok(explanation.to_text()),
        }
    })
}

/// As the agent says; what it does not say is looked up here, in the network namespace of this process.
fn facts(args: &ExplainArgs) -> Result<Facts> {
    let agent = admin::read(&args.run.join("agent.sock"));
    let mut node = agent.as_ref().map(|agent| agent.node_addresses.clone()).unwrap_or_default();
    for local in interfaces::look()?.addresses {
        if !local.address.is_loopback() && !node.contains(&local.address) {
            node.push(local.address);
        }
    }
    let socket_lb = agent.and_then(|agent| agent.socket_lb).unwrap_or_else(|| has_socket_links(&args.source.bpffs));
    Ok(Facts { node, socket_lb })
}

/// Whether programs are attached to a control group.
fn has_socket_links(bpffs: &Path) -> bool {
    let links = std::fs::read_dir(bpffs.join("links")).into_iter().flatten().flatten();
    links.into_iter().any(|link| link.file_name().to_string_lossy().starts_with("connect"))
}
