//! SIGINT and SIGTERM as something to wait for.
//!
//! By handlers, not by blocking: children inherit blocked signals, and a pod that cannot hear SIGTERM ends only by SIGKILL.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

pub struct Signals(Receiver<()>);

// === impl Signals ===

impl Signals {
    /// From now on SIGINT and SIGTERM no longer end this process.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the signals' runtime")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt()).context("handle SIGINT")?,
                signal(SignalKind::terminate()).context("handle SIGTERM")?,
            )
        };
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if sender.send(()).is_err() {
                        return;
                    }
                }
            });
        });
        Ok(Self(receiver))
    }

    /// Waits at most `timeout`; true when a signal came.
    ///
    /// # Errors
    /// When nobody listens any more: a defect.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        match self.0.recv_timeout(timeout) {
            Ok(()) => Ok(true),
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that listens to signals has ended"),
        }
    }
}
