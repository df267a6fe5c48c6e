//! Where changes come from: an API server, or manifests on disk. Either way one task sends [`Batch`]es to the
//! owner of the [`World`](crate::World).

pub mod convert;
mod file;
mod kube;
mod manifest;
mod merge;
mod object;

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::world::Batch;

/// Where the state of the cluster is read from.
#[derive(Clone, Debug)]
pub enum Source {
    Kube(KubeOptions),
    /// A YAML file, or a directory of them (`*.yaml`, `*.yml`, `*.json`), followed as it changes.
    File(PathBuf),
}

#[derive(Clone, Debug, Default)]
pub struct KubeOptions {
    /// `None`: the service account of the pod we run in, or else `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node.
    pub node: String,
    /// Follow pods too, only those of this node.
    pub pods: bool,
    pub services: ServiceScope,
}

/// Which services are asked for, and with them which slices of endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ServiceScope {
    /// DNS answers for headless ones, and for those that another proxy serves.
    #[default]
    All,
    /// What a service proxy serves: neither headless nor another proxy's.
    Proxied,
}

/// What keeps a source from starting. Once it runs, it never gives up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("kubeconfig {}: {reason}", path.display())]
    Kubeconfig { path: PathBuf, reason: String },
    #[error("no way to the API server: {reason}: give --kubeconfig, or run in a pod with a service account")]
    Infer { reason: String },
    #[error("client of the API server: {reason}")]
    Client { reason: String },
}

// === impl Source ===

impl Source {
    /// Sends what it learns until the receiver is dropped. Errors of files, connections and objects are logged and
    /// outlived; `Batch.synced` is true from the first batch on which completes the first listing of every kind.
    ///
    /// # Errors
    /// Only before the first batch: the configuration of the API client cannot be used.
    pub async fn run(self, sink: mpsc::Sender<Batch>) -> Result<(), SourceError> {
        match self {
            Self::Kube(options) => kube::run(options, sink).await,
            Self::File(path) => {
                file::run(path, sink).await;
                Ok(())
            }
        }
    }
}
