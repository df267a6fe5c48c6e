//! Whether this machine can run the data path at all: asked before anything is made, so that the agent can fall back to
//! iptables with nothing to undo.

use std::io;

use aya::{programs::ProgramType, sys::is_program_supported};

use crate::{Error, sys};

/// # Errors
/// [`Error::Kernel`] names what the kernel lacks, [`Error::NotPermitted`] what the process does.
pub fn check() -> Result<(), Error> {
    match sys::has_tcx() {
        Ok(true) => {}
        Ok(false) => return Err(Error::Kernel { what: "tc programs on links (TCX)", needed: "6.6" }),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Error::NotPermitted { source: error }),
        Err(source) => return Err(Error::Probe { source }),
    }
    for (program, what) in [
        (ProgramType::CgroupSockAddr, "programs on socket calls (CONFIG_CGROUP_BPF)"),
        (ProgramType::CgroupSock, "programs on sockets (CONFIG_CGROUP_BPF)"),
        (ProgramType::SchedClassifier, "tc programs (CONFIG_NET_CLS_BPF)"),
    ] {
        if matches!(is_program_supported(program), Ok(false)) {
            return Err(Error::Kernel { what, needed: "6.6" });
        }
    }
    Ok(())
}
