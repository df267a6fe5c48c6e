//! Loads the object: options become constants of the programs, sizes those of the maps, and pins decide which maps are
//! found rather than made.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use thalweg_abi::{Be32, Be128};

use crate::{Error, Options, maps::PINNED, netns, object::OBJECT};

/// Makes or opens the maps in `folder`, and loads every program. Nothing is attached.
pub fn load(options: &Options, folder: &Path) -> Result<Ebpf, Error> {
    let Options { node_addr, node_addr6, sizes, socket_lb, .. } = options;
    let node_addr = node_addr.map_or(Be32::ZERO, Be32::from).0;
    let node_addr6 = node_addr6.map_or(Be128::ZERO, Be128::from).0;
    let node_netns = netns::own_cookie().map_err(|source| Error::Netns { source })?;
    let socket_lb = u32::from(*socket_lb);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("NODE_ADDR", &node_addr, true)
        .override_global("NODE_ADDR6", &node_addr6, true)
        .override_global("NODE_NETNS", &node_netns, true)
        .override_global("SOCKET_LB", &socket_lb, true);
    for (name, entries) in sizes.by_map() {
        loader.map_max_entries(name, entries);
    }
    for name in PINNED {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|source| Error::Load { source: Box::new(source) })?;
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        result.map_err(|source| program_error(name, source))?;
    }
    Ok(ebpf)
}

pub fn program_error(name: &str, source: ProgramError) -> Error {
    Error::Program { program: name.to_owned(), source: Box::new(source) }
}
