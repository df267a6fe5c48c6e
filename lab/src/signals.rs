//! SIGINT and SIGTERM as something to wait for: blocked in every thread, read from a descriptor.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub struct Signals(SignalFd);

// === impl Signals ===

impl Signals {
    /// Call before any thread is started: threads inherit the blocked signals; children start with none blocked.
    ///
    /// # Errors
    /// When the kernel refuses a descriptor.
    pub fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.thread_block().context("block SIGINT and SIGTERM")?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?))
    }

    /// Waits at most `timeout`; true when a signal came.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let millis = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, millis) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(false),
            Ok(_) => Ok(self.0.read_signal().context("read a signal")?.is_some()),
            Err(error) => Err(error).context("wait for a signal"),
        }
    }
}
