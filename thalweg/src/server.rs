//! `thalweg server`: API server, controllers and scheduler in one process; and `thalweg kubeconfig`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use tokio::sync::oneshot;

use crate::shutdown_signal;

#[derive(clap::Args, Debug)]
pub struct ServerArgs {
    /// Store, certificates and keys.
    #[arg(long, default_value = "/var/lib/thalweg/server")]
    data: PathBuf,
    /// Address to serve the API on; may be given several times.
    #[arg(long, default_value = "0.0.0.0:6443")]
    listen: Vec<SocketAddr>,
    /// Also serve on sockets inherited by the sd_listen_fds protocol (LISTEN_FDS).
    #[arg(long)]
    inherit_sockets: bool,
    /// Address at which pods and nodes reach the API: the endpoint of service default/kubernetes.
    #[arg(long)]
    advertise: SocketAddr,
    /// Virtual IPs of services come from here.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cidr: IpNetwork,
    /// Nodes get their pod address ranges from here.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: IpNetwork,
    /// Prefix length of one node's range.
    #[arg(long, default_value_t = 24)]
    node_mask: u8,
    /// NodePorts, first and last.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    node_ports: (u16, u16),
    /// More names and addresses for the server's certificate.
    #[arg(long)]
    tls_san: Vec<String>,
    /// Static bearer tokens: lines of `token,user,uid,"group1,group2"`.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Seconds without a sign of life after which a node is not Ready.
    #[arg(long, default_value_t = 40)]
    node_grace: u64,
}

#[derive(clap::Args, Debug)]
pub struct KubeconfigArgs {
    /// The server's data folder: its certificate authority signs; it is made when there is none yet.
    #[arg(long, default_value = "/var/lib/thalweg/server")]
    data: PathBuf,
    /// URL of the API server.
    #[arg(long)]
    server: String,
    /// Common name of the certificate: the user.
    #[arg(long)]
    user: String,
    /// Organisations of the certificate: the user's groups.
    #[arg(long)]
    group: Vec<String>,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
}

pub fn kubeconfig(args: &KubeconfigArgs) -> Result<()> {
    let groups: Vec<&str> = args.group.iter().map(String::as_str).collect();
    thalweg_apiserver::write_kubeconfig(&args.data, &args.server, &args.user, &groups, &args.out)
}

pub async fn run(args: ServerArgs) -> Result<()> {
    let shutdown = shutdown_signal()?;
    let config = thalweg_apiserver::Config {
        data: args.data.clone(),
        listen: args.listen.clone(),
        inherit: args.inherit_sockets,
        advertise: args.advertise,
        service_cidr: args.service_cidr,
        node_ports: args.node_ports,
        sans: args.tls_san.clone(),
        token_file: args.token_file.clone(),
    };
    let (ready, is_ready) = oneshot::channel();
    let mut server = tokio::spawn(thalweg_apiserver::run(config, ready, shutdown.clone()));
    tokio::select! {
        ready = is_ready => ready.ok().context("the API server ended before it was ready").ok(),
        ended = &mut server => return ended.context("the API server's task")?,
    };

    let client = client(&args).await?;
    let authority = args.data.join("pki/ca.crt");
    let root_ca = std::fs::read_to_string(&authority).with_context(|| format!("read {}", authority.display()))?;
    let controllers = thalweg_controllers::Config {
        cluster_cidr: args.cluster_cidr,
        node_mask: args.node_mask,
        node_grace: Duration::from_secs(args.node_grace),
        root_ca: Some(root_ca),
        ..thalweg_controllers::Config::default()
    };
    let mut controllers = tokio::spawn(thalweg_controllers::run(client.clone(), controllers, shutdown.clone()));
    let mut scheduler =
        tokio::spawn(thalweg_scheduler::run(client, thalweg_scheduler::SchedulerConfig::default(), shutdown.clone()));
    // Whichever ends first, ends the process: a control plane with a part missing is worse than a restarted one.
    let ended = tokio::select! {
        ended = &mut server => ended.context("the API server's task"),
        ended = &mut controllers => ended.context("the controllers' task"),
        ended = &mut scheduler => ended.context("the scheduler's task"),
    };
    shutdown.cancel();
    ended??;
    server.await.unwrap_or(Ok(()))
}

/// The controllers reach the API as everybody does: over TLS, with a certificate of their own.
async fn client(args: &ServerArgs) -> Result<kube::Client> {
    let path = args.data.join("controllers.kubeconfig");
    let url = format!("https://{}", args.advertise);
    thalweg_apiserver::write_kubeconfig(&args.data, &url, "thalweg:controllers", &["system:masters"], &path)?;
    let kubeconfig = kube::config::Kubeconfig::read_from(&path).context("read the controllers' kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
        .await
        .context("use the controllers' kubeconfig")?;
    kube::Client::try_from(config).context("make the controllers' client")
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let error = || format!("{text:?}: two port numbers such as 30000-32767, the smaller first");
    let (first, last) = text.split_once('-').ok_or_else(error)?;
    let (first, last) = (first.parse::<u16>().map_err(|_| error())?, last.parse::<u16>().map_err(|_| error())?);
    if first == 0 || first > last { Err(error()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::port_range;

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("30000-32767"), Ok((30000, 32767)));
        for bad in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
