//! Makes a sandbox's namespaces and holds them. The outer half unshares and starts the inner half as process 1 of the new pid
//! namespace; the inner half reaps orphans and waits. The outer half leaves once the inner one is recorded.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::reexec;
use crate::process::{Cgroup, ProcessRef, state};

const READY: &[u8] = b"ready\n";

/// The empty file system the pause process lives in, so that it holds no mount of the node.
pub(super) const EMPTY_ROOT: &str = "root";

pub(super) fn outer(dir: &Path, subcommand: &[OsString]) -> Result<ExitCode> {
    let record: state::SandboxRecord = state::read(&dir.join(state::SANDBOX))?.context("the sandbox has no record")?;
    // A session of its own: Ctrl-C and a closed terminal reach the kubelet, not the pods.
    let _ = nix::unistd::setsid();
    std::fs::create_dir_all(dir.join(EMPTY_ROOT)).context("make the pause root")?;
    Cgroup::new(&record.cgroup).child("sandbox").enter()?;

    if let Some(netns) = &record.netns {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        keep_netns(netns)?;
        // Open to every user of the pod, as the container runtimes have it.
        set_sysctl("net.ipv4.ip_unprivileged_port_start", "0")?;
    }
    let mut flags = CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWIPC, !record.config.host_ipc);
    flags.set(CloneFlags::CLONE_NEWPID, !record.config.host_pid);
    unshare(flags).context("make the sandbox's namespaces; the kubelet's process runtime needs root")?;
    for (name, value) in &record.config.sysctls {
        ensure!(!name.starts_with("net.") || record.netns.is_some(), "sysctl {name} is not allowed with the node's network");
        ensure!(is_namespaced(name, record.config.host_ipc), "sysctl {name} is not a pod's own; it would change the node");
        set_sysctl(name, value)?;
    }

    let mut inner = reexec(subcommand)
        .arg("--inner")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the pause process")?;
    let process = ProcessRef::of(inner.id()).context("read the pause process")?;
    let mut answer = Vec::new();
    if let Some(stdout) = inner.stdout.as_mut() {
        stdout.take(READY.len() as u64).read_to_end(&mut answer).context("wait for the pause process")?;
    }
    if answer != READY {
        bail!("the pause process ended early: {}", inner.wait()?);
    }
    state::write(&dir.join(state::PAUSE), &process)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn inner(dir: &Path) -> Result<ExitCode> {
    let record: state::SandboxRecord = state::read(&dir.join(state::SANDBOX))?.context("the sandbox has no record")?;
    nix::unistd::sethostname(&record.config.hostname).context("set the hostname")?;
    if record.netns.is_some() {
        loopback_up().context("bring lo up")?;
    }
    // Blocked before anybody may send them: process 1 would otherwise lose them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    empty_root(&dir.join(EMPTY_ROOT))?;
    let _ = nix::sys::prctl::set_name(c"pause");
    std::io::stdout().write_all(READY)?;
    std::io::stdout().flush()?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    drop(null);
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => reap(),
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Orphans of the pod's containers come to process 1.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn keep_netns(path: &Path) -> Result<()> {
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(path)
        .and_then(|_| mount(Some("/proc/self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(Into::into))
        .with_context(|| format!("keep the network namespace at {}", path.display()))
}

fn empty_root(dir: &Path) -> Result<()> {
    // Here and not in the outer half, whose root would change with ours.
    unshare(CloneFlags::CLONE_NEWNS).context("make the sandbox's mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make the mounts private")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("thalweg-pause"), dir, Some("tmpfs"), flags, Some("size=4k")).context("mount the pause root")?;
    std::env::set_current_dir(dir)?;
    nix::unistd::pivot_root(".", ".").context("change the pause root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leave the node's mounts")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn is_namespaced(name: &str, host_ipc: bool) -> bool {
    let ipc = name.starts_with("kernel.shm") || name.starts_with("kernel.msg") || name == "kernel.sem";
    name.starts_with("net.") || (!host_ipc && (ipc || name.starts_with("fs.mqueue.")))
}

/// A dotted name; a dot inside an interface's name is written as a slash.
fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path: String = name
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    ensure!(!path.split('/').any(|part| part == ".."), "sysctl {name} is not a name");
    std::fs::write(Path::new("/proc/sys").join(path), value).with_context(|| format!("set sysctl {name}={value}"))
}

fn loopback_up() -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = empty_ifreq();
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    #[expect(unsafe_code, reason = "SIOCSIFFLAGS has no safe wrapper")]
    // SAFETY: the socket is open, and the request is a complete, NUL-terminated ifreq that outlives the call.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn empty_ifreq() -> libc::ifreq {
    #[expect(unsafe_code, reason = "ifreq has no constructor")]
    // SAFETY: ifreq is plain data; all zero is a valid value.
    unsafe {
        std::mem::zeroed()
    }
}
