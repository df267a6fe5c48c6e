//! The one binary: subcommands and wiring.

mod addresses;
mod agent;
mod backend;
mod bench;
mod clients;
mod datapath;
mod dns;
mod echo;
mod handover;
mod interfaces;
mod keeper;
mod kernel_table;
mod kubelet;
mod monitor;
mod ports;
mod pressure;
mod probe;
mod proxy;
mod rights;
mod rules;
mod server;
mod services;
mod views;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser, Debug)]
#[command(
    name = "thalweg",
    version,
    about = "Kubernetes networking on eBPF: service proxy, cluster DNS, pod network, and a compact control plane"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// The node agent: service proxy, cluster DNS and pod network in one process
    Agent(Box<agent::AgentArgs>),
    /// The service proxy alone, by kube-proxy's flags and configuration file
    Proxy(Box<proxy::ProxyArgs>),
    /// Cluster DNS alone, by CoreDNS's configuration file
    Dns(dns::DnsArgs),
    /// The control plane: API server, controllers and scheduler in one process
    Server(server::ServerArgs),
    /// Write a kubeconfig with a client certificate signed by the cluster's authority
    Kubeconfig(server::KubeconfigArgs),
    /// Run the pods of this node
    Kubelet(kubelet::KubeletArgs),
    /// The services in the kernel: every frontend with who answers it
    Services(views::TableArgs),
    /// The backends in the kernel, with who sends to them and their flows
    Backends(views::TableArgs),
    /// The flows that tc translates
    Conntrack(views::TableArgs),
    /// Which backend a client keeps (ClientIP affinity)
    Affinity(views::ServiceTableArgs),
    /// Packets dropped, by reason, with what each means
    Drops(views::DropsArgs),
    /// How full the maps are
    Maps(views::MapsArgs),
    /// What becomes of a packet on this node, and why: service, policy, backends, verdict
    Explain(views::ExplainArgs),
    /// Services by what they do now: new connections, flows, bytes, drops
    Top(views::TopArgs),
    /// The state of this node's data path: maps, counters, drops, and the agent's own figures
    Status(views::StatusArgs),
    /// Remove everything that an agent or a proxy left in the kernel, of either mode
    Cleanup(views::CleanupArgs),
    /// A server that says who answered, over HTTP, TCP and UDP
    Echo(echo::EchoArgs),
    /// Measure this and others side by side on this machine: becomes `thalweg-bench`
    #[command(disable_help_flag = true)]
    Bench(RawArgs),
    #[command(hide = true, disable_help_flag = true)]
    KubeletPause(RawArgs),
    #[command(hide = true, disable_help_flag = true)]
    KubeletContainer(RawArgs),
}

/// Arguments that another program parses itself.
#[derive(clap::Args, Debug)]
struct RawArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<std::ffi::OsString>,
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // Before any thread is started: these two enter namespaces, which only a single thread may.
    match verb {
        Verb::KubeletPause(raw) => thalweg_kubelet::pause_main(raw.args),
        Verb::KubeletContainer(raw) => thalweg_kubelet::container_main(raw.args),
        verb => match run(verb) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Services(args) => views::services(&args),
        Verb::Backends(args) => views::backends(&args),
        Verb::Conntrack(args) => views::conntrack(&args),
        Verb::Affinity(args) => views::affinity(&args),
        Verb::Drops(args) => views::drops(&args),
        Verb::Maps(args) => views::maps(&args),
        Verb::Explain(args) => views::explain(&args),
        Verb::Top(args) => views::top(&args),
        Verb::Status(args) => views::status(&args),
        Verb::Cleanup(args) => views::cleanup(&args),
        Verb::Bench(raw) => bench::run(&raw.args),
        Verb::Kubeconfig(args) => server::kubeconfig(&args),
        Verb::Agent(args) => daemon(agent::run(*args)),
        Verb::Proxy(args) => daemon(proxy::run(*args)),
        Verb::Dns(args) => daemon(dns::run(args)),
        Verb::Server(args) => daemon(server::run(args)),
        Verb::Kubelet(args) => daemon(kubelet::run(args)),
        Verb::Echo(args) => daemon(echo::run(args)),
        Verb::KubeletPause(_) | Verb::KubeletContainer(_) => Ok(()),
    }
}

/// Runs a long-lived subcommand: logging to standard error by `RUST_LOG`, TLS by ring, a runtime of two threads.
fn daemon(work: impl Future<Output = Result<()>>) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    thalweg_loader::heap::keep_small();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(work);
    // A task that blocks (a watch, a socket) must not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// Ends the process some seconds after it was asked to, whatever the loop waits for: a sync may run programs, and those
/// wait for others' locks. Every step in the kernel may be cut short; the next process goes on from there.
fn end_in_time(shutdown: &tokio_util::sync::CancellationToken) {
    const GRACE: std::time::Duration = std::time::Duration::from_secs(5);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
        tracing::warn!("stopping in the middle of a sync; the next process finishes it");
        std::process::exit(0);
    });
}

/// Cancelled by SIGTERM or SIGINT.
fn shutdown_signal() -> Result<tokio_util::sync::CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = tokio_util::sync::CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(token)
}
