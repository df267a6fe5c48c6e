//! What the server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// How to run the API server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store (`store.redb`), the CA (`pki/`) and `admin.kubeconfig` live; made when absent.
    pub data: PathBuf,
    /// Addresses to listen on. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Listen also on the sockets that the parent process passed on (sd_listen_fds: LISTEN_FDS, LISTEN_PID).
    pub inherit: bool,
    /// The address by which pods and nodes reach the server: the endpoint of the `kubernetes` service.
    pub advertise: SocketAddr,
    /// Addresses of services. The first one is the `kubernetes` service.
    pub service_cidr: IpNetwork,
    /// First and last port of NodePort services.
    pub node_ports: (u16, u16),
    /// Names and addresses that the serving certificate carries besides the obvious ones.
    pub sans: Vec<String>,
    /// Static bearer tokens: lines of `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
}
