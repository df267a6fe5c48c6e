//! The agent's side of the plugin as a process of its own, without a data path: the host's routing joins the pods.
//! To try the plugin by hand, and for tests that kill an agent.
//!
//! `pod-network SOCKET STATE_DIR UPLINK POD_CIDR[,POD_CIDR] [attach|hang]` in the network namespace of the node. With `hang`, an ADD
//! stays for ever where the data path would attach it. Ends when stdin does.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use thalweg_network::{BoxError, Options, PodDatapath, PodLink, PodNetwork};

#[derive(Default)]
struct Nothing {
    hang: AtomicBool,
}

// === impl Nothing ===

impl PodDatapath for Nothing {
    fn attach(&self, _: &PodLink) -> Result<(), BoxError> {
        if !self.hang.load(Ordering::SeqCst) {
            return Ok(());
        }
        loop {
            std::thread::park();
        }
    }

    fn detach(&self, _: &PodLink) -> Result<(), BoxError> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (paths, hang) = match arguments.as_slice() {
        [paths @ .., mode] if paths.len() == 4 && mode == "hang" => (paths, true),
        [paths @ .., mode] if paths.len() == 4 && mode == "attach" => (paths, false),
        paths if paths.len() == 4 => (paths, false),
        _ => bail!("usage: pod-network SOCKET STATE_DIR UPLINK POD_CIDR[,POD_CIDR] [attach|hang]"),
    };
    let options = Options {
        socket: paths[0].clone().into(),
        state_dir: paths[1].clone().into(),
        node: "example".into(),
        uplink: paths[2].clone(),
        mtu: None,
        quarantine: Duration::from_secs(30),
    };
    let datapath = Arc::new(Nothing::default());
    let network = PodNetwork::start(options, datapath.clone())?;
    // Pods that were there have been attached by now.
    datapath.hang.store(hang, Ordering::SeqCst);
    network.set_pod_cidrs(paths[3].split(',').map(str::parse).collect::<Result<_, _>>()?)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    network.shutdown();
    Ok(())
}
