//! Pinned links: which program runs where. A link outlives the agent; the next one replaces the program inside, in one
//! step, so that nothing is ever detached across a restart.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use crate::{
    Error, bpffs,
    sys::{self, AttachType, LinkTarget},
};

/// The target part of a cgroup link's name.
const CGROUP: &str = "cgroup";

/// Where a program hooks in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Cgroup(AttachType),
    Tcx(AttachType),
}

/// Every program that is attached, with its hook.
///
/// Answers and releases come before calls: they are attached in this order, and what a call is turned to must be known
/// to whoever asks for it.
pub const HOOKS: [(&str, Hook); 19] = [
    ("sock_release", Hook::Cgroup(AttachType::BPF_CGROUP_INET_SOCK_RELEASE)),
    ("recvmsg4", Hook::Cgroup(AttachType::BPF_CGROUP_UDP4_RECVMSG)),
    ("recvmsg6", Hook::Cgroup(AttachType::BPF_CGROUP_UDP6_RECVMSG)),
    ("getpeername4", Hook::Cgroup(AttachType::BPF_CGROUP_INET4_GETPEERNAME)),
    ("getpeername6", Hook::Cgroup(AttachType::BPF_CGROUP_INET6_GETPEERNAME)),
    ("post_bind4", Hook::Cgroup(AttachType::BPF_CGROUP_INET4_POST_BIND)),
    ("post_bind6", Hook::Cgroup(AttachType::BPF_CGROUP_INET6_POST_BIND)),
    ("connect4", Hook::Cgroup(AttachType::BPF_CGROUP_INET4_CONNECT)),
    ("connect6", Hook::Cgroup(AttachType::BPF_CGROUP_INET6_CONNECT)),
    ("sendmsg4", Hook::Cgroup(AttachType::BPF_CGROUP_UDP4_SENDMSG)),
    ("sendmsg6", Hook::Cgroup(AttachType::BPF_CGROUP_UDP6_SENDMSG)),
    ("tc_from_pod", Hook::Tcx(AttachType::BPF_TCX_INGRESS)),
    ("tc_from_pod6", Hook::Tcx(AttachType::BPF_TCX_INGRESS)),
    ("tc_to_pod", Hook::Tcx(AttachType::BPF_TCX_EGRESS)),
    ("tc_to_pod6", Hook::Tcx(AttachType::BPF_TCX_EGRESS)),
    ("tc_from_wire", Hook::Tcx(AttachType::BPF_TCX_INGRESS)),
    ("tc_from_wire6", Hook::Tcx(AttachType::BPF_TCX_INGRESS)),
    ("tc_to_wire", Hook::Tcx(AttachType::BPF_TCX_EGRESS)),
    ("tc_to_wire6", Hook::Tcx(AttachType::BPF_TCX_EGRESS)),
];

fn hook(program: &str) -> Option<Hook> {
    HOOKS.iter().find(|(name, _)| *name == program).map(|(_, hook)| *hook)
}

/// What a program is to be attached to.
#[derive(Debug)]
pub enum Target {
    Cgroup { path: PathBuf, folder: File, id: u64 },
    Interface { name: String, index: u32 },
}

// === impl Target ===

impl Target {
    pub fn cgroup(path: &Path) -> Result<Self, Error> {
        let error = |source| Error::Cgroup { path: path.to_owned(), source };
        let folder = File::open(path).map_err(error)?;
        // The kernel's id of a cgroup is the inode number of its directory.
        let id = folder.metadata().map_err(error)?.ino();
        Ok(Self::Cgroup { path: path.to_owned(), folder, id })
    }

    /// Looked up in the network namespace of the calling thread.
    pub fn interface(name: &str) -> Result<Self, Error> {
        let index = nix::net::if_::if_nametoindex(name)
            .map_err(|errno| Error::Interface { interface: name.to_owned(), source: errno.into() })?;
        Ok(Self::Interface { name: name.to_owned(), index })
    }

    fn describe(&self) -> String {
        match self {
            Self::Cgroup { path, .. } => path.display().to_string(),
            Self::Interface { name, .. } => name.clone(),
        }
    }

    fn pin_name(&self, program: &str) -> String {
        match self {
            Self::Cgroup { .. } => pin_name(program, CGROUP),
            Self::Interface { name, .. } => pin_name(program, name),
        }
    }

    /// Whether the link is attached to this very target, not to a former one of the same name.
    fn is_held_by(&self, link: BorrowedFd<'_>) -> bool {
        match self {
            Self::Cgroup { id, .. } => sys::link_cgroup(link).is_ok_and(|held| held == *id),
            Self::Interface { index, .. } => sys::link_interface(link).is_ok_and(|held| held == *index),
        }
    }
}

/// Names on a bpffs must not have dots, which interfaces may have.
fn pin_name(program: &str, target: &str) -> String {
    format!("{program}@{}", target.replace('%', "%25").replace('.', "%2e"))
}

/// The program's part of a pin's name.
pub fn program_of(pin: &str) -> &str {
    pin.split_once('@').map_or(pin, |(program, _)| program)
}

/// The interface's part of a pin's name; `None` for a link of another kind.
pub fn interface_of(pin: &str) -> Option<String> {
    let (program, target) = pin.split_once('@')?;
    let is_tcx = matches!(hook(program), Some(Hook::Tcx(_)));
    is_tcx.then(|| target.replace("%2e", ".").replace("%25", "%"))
}

/// Brings one link to "this program on this target": updates the pinned one, or makes and pins it.
pub fn attach(links: &Path, program: &str, fd: BorrowedFd<'_>, target: &Target) -> Result<(), Error> {
    let Some(hook) = hook(program) else { return Err(Error::NoProgram { program: program.to_owned() }) };
    let failed = |source| Error::Attach { program: program.to_owned(), target: target.describe(), source };
    let path = links.join(target.pin_name(program));
    if let Some(link) = open(&path)? {
        if target.is_held_by(link.as_fd()) {
            return sys::link_update(link.as_fd(), fd).map_err(failed);
        }
        bpffs::remove(&path)?;
    }
    let (link_target, attach_type) = match (target, hook) {
        (Target::Cgroup { folder, .. }, Hook::Cgroup(attach)) => (LinkTarget::Cgroup(folder.as_fd()), attach),
        (Target::Interface { index, .. }, Hook::Tcx(attach)) => (LinkTarget::Interface(*index), attach),
        _ => return Err(failed(io::ErrorKind::Unsupported.into())),
    };
    let link = sys::link_create(fd, link_target, attach_type).map_err(failed)?;
    sys::object_pin(link.as_fd(), &path).map_err(|source| Error::Bpffs { path, action: "cannot pin the link", source })
}

/// Detaches at once and removes the pin; one that is not there is not an error.
pub fn detach(links: &Path, program: &str, interface: &str) -> Result<(), Error> {
    remove(&links.join(pin_name(program, interface)))
}

/// Detaches at once, whatever other references there are, and removes the pin.
pub fn remove(path: &Path) -> Result<(), Error> {
    if let Some(link) = open(path)?
        && let Err(error) = sys::link_detach(link.as_fd())
    {
        // The target may be going at this moment; the pin is removed all the same.
        tracing::debug!(link = %path.display(), %error, "link was not detached by request");
    }
    bpffs::remove(path)
}

/// Replaces the program in every pinned link whose target still exists. `program` gives the descriptor of a name.
pub fn replace_all<'a>(links: &Path, program: impl Fn(&str) -> Option<BorrowedFd<'a>>) -> Result<(), Error> {
    for pin in bpffs::names(links)? {
        let path = links.join(&pin);
        let Some(link) = open(&path)? else { continue };
        match program(program_of(&pin)) {
            Some(fd) if is_alive(&pin, link.as_fd()) => replace(&pin, link.as_fd(), fd)?,
            // A hook that this build no longer has, or a target that is gone.
            _ => remove(&path)?,
        }
    }
    Ok(())
}

/// As [`replace_all`], but links of other programs, or of targets that are gone, stay as they are.
pub fn replace_some<'a>(links: &Path, program: impl Fn(&str) -> Option<BorrowedFd<'a>>) -> Result<(), Error> {
    for pin in bpffs::names(links)? {
        if let Some(fd) = program(program_of(&pin))
            && let Some(link) = open(&links.join(&pin))?
            && is_alive(&pin, link.as_fd())
        {
            replace(&pin, link.as_fd(), fd)?;
        }
    }
    Ok(())
}

fn replace(pin: &str, link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
    sys::link_update(link, program).map_err(|source| Error::Attach {
        program: program_of(pin).to_owned(),
        target: pin.to_owned(),
        source,
    })
}

/// Removes pins whose target is gone; returns how many.
pub fn prune(links: &Path) -> Result<usize, Error> {
    let mut pruned = 0;
    for pin in bpffs::names(links)? {
        let path = links.join(&pin);
        if let Some(link) = open(&path)?
            && !is_alive(&pin, link.as_fd())
        {
            bpffs::remove(&path)?;
            pruned += 1;
        }
    }
    Ok(pruned)
}

fn is_alive(pin: &str, link: BorrowedFd<'_>) -> bool {
    match hook(program_of(pin)) {
        Some(Hook::Cgroup(_)) => sys::link_cgroup(link).is_ok_and(|id| id != 0),
        Some(Hook::Tcx(_)) => sys::link_interface(link).is_ok_and(|index| index != 0),
        None => false,
    }
}

fn open(path: &Path) -> Result<Option<OwnedFd>, Error> {
    match sys::object_get(path) {
        Ok(link) => Ok(Some(link)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        // Opening needs the write permission of the file; an unreadable pin is the operator's to look at.
        Err(source) => Err(Error::Bpffs { path: path.to_owned(), action: "cannot open the pinned link", source }),
    }
}

/// Removes every link and the folder; returns the names.
pub fn remove_all(links: &Path) -> Result<Vec<String>, Error> {
    let names = bpffs::names(links)?;
    for name in &names {
        remove(&links.join(name))?;
    }
    match fs::remove_dir(links) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Bpffs { path: links.to_owned(), action: "cannot remove the folder", source })
        }
        _ => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::{interface_of, pin_name, program_of};

    #[test]
    fn pins_of_vlan_interfaces_have_no_dots() {
        assert_eq!(pin_name("tc_from_wire", "eth0.100"), "tc_from_wire@eth0%2e100");
        assert_eq!(pin_name("tc_from_wire", "eth0%2e100"), "tc_from_wire@eth0%252e100");
        assert_eq!(program_of("tc_from_wire@eth0%2e100"), "tc_from_wire");
        assert_eq!(program_of("stray"), "stray");
        for interface in ["eth0", "eth0.100", "eth0%2e100"] {
            assert_eq!(interface_of(&pin_name("tc_from_wire", interface)).as_deref(), Some(interface));
        }
        assert_eq!((interface_of("connect4@cgroup"), interface_of("stray")), (None, None));
    }
}
