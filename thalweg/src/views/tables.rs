//! `thalweg services`, `backends`, `conntrack`, `affinity`, `maps`, `drops`: the maps as tables.

use std::net::IpAddr;

use anyhow::Result;
use clap::Args;
use thalweg_proxy::inspect::{self, Filter, live};

use super::output::{Output, OutputArgs};
use super::source::SourceArgs;

/// Which services.
#[derive(Args, Debug, Default)]
pub struct ServiceFilterArgs {
    /// Only services of this namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only this service: NAME or NAMESPACE/NAME, where `*` stands for any text
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only this protocol: tcp, udp or sctp
    #[arg(long, value_parser = ["tcp", "udp", "sctp"], ignore_case = true)]
    pub protocol: Option<String>,
}

/// A table of services' own, whatever the address that was dialled.
#[derive(Args, Debug)]
pub struct ServiceTableArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    filter: ServiceFilterArgs,
}

/// A table of what is dialled.
#[derive(Args, Debug)]
pub struct TableArgs {
    #[command(flatten)]
    table: ServiceTableArgs,
    /// Only what is dialled at this address: a ClusterIP, an external address, or a node's for NodePorts
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<IpAddr>,
}

#[derive(Args, Debug)]
pub struct MapsArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct DropsArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Reasons that never occurred too (JSON has them always)
    #[arg(long)]
    all: bool,
}

/// # Errors
/// When the maps cannot be read.
pub fn services(args: &TableArgs) -> Result<()> {
    let (maps, filter) = (args.table.source.open()?, args.filter());
    args.table.output.show(|| Ok(live::service_rows(&maps, &filter)?))
}

/// # Errors
/// When the maps cannot be read.
pub fn backends(args: &TableArgs) -> Result<()> {
    let (maps, filter) = (args.table.source.open()?, args.filter());
    args.table.output.show(|| Ok(live::backend_rows(&maps, &filter)?))
}

/// # Errors
/// When the maps cannot be read.
pub fn conntrack(args: &TableArgs) -> Result<()> {
    let (maps, filter) = (args.table.source.open()?, args.filter());
    args.table.output.show(|| Ok(live::conntrack_rows(&maps, &filter)?))
}

/// # Errors
/// When the maps cannot be read.
pub fn affinity(args: &ServiceTableArgs) -> Result<()> {
    let (maps, filter) = (args.source.open()?, args.filter.filter());
    args.output.show(|| Ok(live::affinity_rows(&maps, &filter)?))
}

/// # Errors
/// When the maps cannot be read.
pub fn maps(args: &MapsArgs) -> Result<()> {
    let maps = args.source.open()?;
    args.output.show(|| Ok(inspect::maps(&live::fill(&maps)?)))
}

/// # Errors
/// When the maps cannot be read.
pub fn drops(args: &DropsArgs) -> Result<()> {
    let maps = args.source.open()?;
    args.output.show(|| {
        let mut rows = inspect::drops(&maps.drops()?);
        rows.retain(|row| args.all || args.output.output == Output::Json || row.count > 0);
        Ok(rows)
    })
}

// === impl ServiceFilterArgs ===

impl ServiceFilterArgs {
    pub fn filter(&self) -> Filter {
        let Self { namespace, service, protocol } = self;
        Filter { namespace: namespace.clone(), service: service.clone(), protocol: protocol.clone(), vip: None }
    }
}

// === impl TableArgs ===

impl TableArgs {
    fn filter(&self) -> Filter {
        Filter { vip: self.vip, ..self.table.filter.filter() }
    }
}
