//! Processes that outlive the kubelet: named by pid, start time and boot, so that a reused pid is never taken for ours, and
//! watched and signalled through a pidfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// PF_EXITING of the kernel's task flags.
const EXITING: u32 = 4;

/// A process of this boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    pub start: u64,
    pub boot: String,
}

/// A handle that keeps meaning the same process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

// === impl ProcessRef ===

impl ProcessRef {
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        Ok(Self { pid, start: stat(pid)?.start, boot: boot_id()? })
    }

    /// Whether it still runs. A zombie does not, nor does one on its way out: the first process of a pid namespace is held
    /// there until all others of the namespace are gone, and nothing can be started beside it any more.
    pub fn alive(&self) -> bool {
        self.look().is_some_and(|stat| !matches!(stat.state, 'Z' | 'X') && stat.flags & EXITING == 0)
    }

    /// A handle, or `None` when the process is gone. One that has ended and was not waited for yet still has a handle.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        let fd = match pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Checked after opening: from here on the handle cannot come to mean another process.
        Ok(self.look().map(|_| PidFd(fd)))
    }

    /// What the kernel says of this very process.
    fn look(&self) -> Option<Stat> {
        let same_boot = boot_id().is_ok_and(|boot| boot == self.boot);
        stat(self.pid).ok().filter(|stat| same_boot && stat.start == self.start)
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.open()? {
            Some(fd) => fd.signal(signal),
            None => Ok(()),
        }
    }
}

// === impl PidFd ===

impl PidFd {
    /// Sends a signal; a process that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        #[expect(unsafe_code, reason = "pidfd_send_signal has no safe wrapper in nix")]
        // SAFETY: the descriptor is open for the whole call, the siginfo pointer may be null, no memory is passed.
        let status =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal as i32, std::ptr::null::<u8>(), 0) };
        match (status, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            (_, e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            (_, e) => Err(e),
        }
    }

    /// Resolves when the process has ended.
    pub async fn wait(self) -> io::Result<()> {
        #[expect(unsafe_code, reason = "tokio leaves the promise that the descriptor stays open to the caller")]
        // SAFETY: the OwnedFd moves into the AsyncFd, so it stays open, and the same file, as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let fd = registered.map_err(|e| e.into_parts().1)?;
        fd.readable().await.map(|_| ())
    }
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "pidfd_open has no safe wrapper in nix")]
    // SAFETY: takes two integers and returns a new descriptor that nobody else owns, or -1.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    flags: u32,
    start: u64,
}

fn stat(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be read: {text:?}")))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The command is in parentheses and may itself contain spaces and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let flags = fields.nth(5)?.parse().ok()?;
    Some(Stat { state, flags, start: fields.nth(12)?.parse().ok()? })
}

fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_strange_command_name() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', flags: 4194560, start: 987654 }));
        assert_eq!(parse_stat("42 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = ProcessRef::of(std::process::id()).expect("own stat");
        assert!(me.alive());
        assert!(!ProcessRef { start: me.start + 1, ..me.clone() }.alive());
        assert!(!ProcessRef { boot: "another".into(), ..me }.alive());
    }

    #[tokio::test]
    async fn wait_resolves_when_the_process_ends() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("spawn sleep");
        let process = ProcessRef::of(child.id()).expect("child stat");
        let fd = process.open().expect("pidfd").expect("alive");
        process.signal(Signal::SIGKILL).expect("signal");
        tokio::time::timeout(std::time::Duration::from_secs(5), fd.wait()).await.expect("ends").expect("wait");
        child.wait().expect("reap");
        assert!(process.open().expect("pidfd").is_none());
    }
}
