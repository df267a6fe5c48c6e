//! DEL while the agent is down: a tombstone for the agent, and the link removed by our own hand.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::libc::{IFLA_IFNAME, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, RTM_DELLINK};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::error::{CniError, code};
use crate::protocol::{AttachmentId, Tombstone, tombstone_dir};

/// Seconds to wait for the kernel's answer.
const KERNEL_SECONDS: i64 = 5;

/// Removes the attachment as far as that goes without the agent.
///
/// The tombstone comes first: whatever happens after it, the agent finishes the work at its next start.
///
/// # Errors
/// Code 5 only when neither the tombstone could be written nor the link removed.
pub fn remove(state_dir: &Path, network: &str, id: &AttachmentId, netns: Option<&Path>) -> Result<(), CniError> {
    let Err(unwritten) = write_tombstone(state_dir, network, id) else {
        // What fails now, the agent does.
        let _ = remove_link(id, netns);
        return Ok(());
    };
    remove_link(id, netns).map_err(|error| {
        CniError::new(code::IO, format!("{id} could not be removed without the agent"))
            .details(format_args!("link: {error}; tombstone below {}: {unwritten}", state_dir.display()))
    })
}

fn write_tombstone(state_dir: &Path, network: &str, id: &AttachmentId) -> io::Result<()> {
    let directory = tombstone_dir(state_dir);
    fs::create_dir_all(&directory)?;
    let name = id.host_ifname();
    let text = serde_json::to_vec(&Tombstone { network: network.to_owned(), id: id.clone() })?;
    // Two DELs may run at once: each writes its own file, the last rename wins with the same content.
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, text)?;
    fs::rename(&temporary, directory.join(name))
}

/// The host's end is found by its name; when it is not in this namespace, the container's end is removed where it is.
/// Either end takes the other with it.
fn remove_link(id: &AttachmentId, netns: Option<&Path>) -> io::Result<()> {
    if delete_link(&id.host_ifname())? {
        return Ok(());
    }
    let Some(netns) = netns.and_then(|path| File::open(path).ok()) else { return Ok(()) };
    if is_own_namespace(&netns)? {
        return Ok(());
    }
    let ifname = id.ifname.clone();
    let inside = thread::spawn(move || -> io::Result<()> {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        delete_link(&ifname).map(drop)
    });
    inside.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the container's namespace panicked")))
}

/// Whether a namespace is the one that this program runs in.
///
/// # Errors
/// When /proc or the descriptor cannot be read.
pub fn is_own_namespace(netns: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (own, other) = (fs::metadata("/proc/thread-self/ns/net")?, netns.metadata()?);
    Ok((own.dev(), own.ino()) == (other.dev(), other.ino()))
}

/// RTM_DELLINK by name; false when there is no such link. The one message is laid out by hand: a netlink library would
/// be most of this program.
fn delete_link(name: &str) -> io::Result<bool> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(KERNEL_SECONDS, 0))?;
    sendto(fd.as_raw_fd(), &delete_link_message(name), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 1024];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match parse_ack(&answer[..length]) {
        Some(0) => Ok(true),
        Some(error) if error == -(Errno::ENODEV as i32) => Ok(false),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

/// nlmsghdr (16), ifinfomsg (16, all zero: found by name), one attribute.
fn delete_link_message(name: &str) -> Vec<u8> {
    let attribute = 4 + name.len() + 1;
    let length = 32 + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&(length as u32).to_ne_bytes());
    message.extend_from_slice(&RTM_DELLINK.to_ne_bytes());
    message.extend_from_slice(&((NLM_F_REQUEST | NLM_F_ACK) as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[0; 16]);
    message.extend_from_slice(&(attribute as u16).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(name.as_bytes());
    message.resize(length, 0);
    message
}

/// The error number of an acknowledgement, zero or negative.
fn parse_ack(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == NLMSG_ERROR).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_whole() {
        for name in ["a", "eth0", "tw0123456789abc"] {
            let message = delete_link_message(name);
            assert_eq!(message.len() % 4, 0);
            assert_eq!(message[..4], (message.len() as u32).to_ne_bytes());
            assert_eq!(message[4..6], 17u16.to_ne_bytes(), "RTM_DELLINK");
            assert_eq!(message[32..34], (4 + name.len() as u16 + 1).to_ne_bytes());
            assert_eq!(&message[36..36 + name.len()], name.as_bytes());
            assert_eq!(message[36 + name.len()], 0);
        }
    }

    #[test]
    fn acknowledgements() {
        let mut answer = [0u8; 36];
        answer[4] = 2;
        answer[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(parse_ack(&answer), Some(-19));
        answer[4] = 3;
        assert_eq!(parse_ack(&answer), None);
        assert_eq!(parse_ack(&answer[..10]), None);
    }

    #[test]
    fn a_tombstone_says_what_to_bury() {
        let state = tempfile::tempdir().unwrap();
        let id = AttachmentId::new("c0ffee", "eth0");
        write_tombstone(state.path(), "thalweg", &id).unwrap();
        write_tombstone(state.path(), "thalweg", &id).unwrap();
        let files: Vec<_> = fs::read_dir(tombstone_dir(state.path())).unwrap().map(|file| file.unwrap().path()).collect();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        let tombstone: Tombstone = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(tombstone, Tombstone { network: "thalweg".into(), id });
    }
}
