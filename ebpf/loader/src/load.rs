//! Loads the object: options become constants of the programs, sizes those of the maps, and pins decide which maps are
//! found rather than made.

use std::{
    hash::{Hash, Hasher},
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use thalweg_abi::{Be32, Be128};

use crate::{Error, Options, maps::PINNED, netns, object::OBJECT};

/// What programs of one data path are loaded with, however often.
#[derive(Debug)]
pub struct Constants {
    pub options: Options,
    /// The cookie of the node's network namespace.
    node_netns: u64,
}

/// The maps of flows, which are the ones that a node's programs are switched between.
const FLOWS: [(&str, &str); 2] = [("CONNTRACK", "CONNTRACK_OTHER"), ("CONNTRACK6", "CONNTRACK6_OTHER")];

// === impl Constants ===

impl Constants {
    /// The calling thread is in the node's network namespace.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let node_netns = netns::own_cookie().map_err(|source| Error::Netns { source })?;
        Ok(Self { options: options.clone(), node_netns })
    }

    /// Makes or opens the maps in `folder`, and loads every program. Nothing is attached.
    pub fn load(&self, folder: &Path) -> Result<Ebpf, Error> {
        let mut ebpf = self.load_maps(folder, None)?;
        load_programs(ebpf.programs_mut().collect())?;
        Ok(ebpf)
    }

    /// The tc programs, on the maps in `folder`, but with flows in those of `own`, and also in those of `other`: for the moment
    /// of a switch.
    pub fn load_switching(&self, folder: &Path, own: &Path, other: &Path) -> Result<Ebpf, Error> {
        let mut ebpf = self.load_maps(folder, Some((own, other)))?;
        load_programs(ebpf.programs_mut().filter(|(_, program)| is_tc(program)).collect())?;
        Ok(ebpf)
    }

    fn load_maps(&self, folder: &Path, flows: Option<(&Path, &Path)>) -> Result<Ebpf, Error> {
        let Options { node_addr, node_addr6, sizes, socket_lb, .. } = self.options;
        let node_addr = node_addr.map_or(Be32::ZERO, Be32::from).0;
        let node_addr6 = node_addr6.map_or(Be128::ZERO, Be128::from).0;
        let (socket_lb, switching) = (u32::from(socket_lb), u32::from(flows.is_some()));
        let mut loader = EbpfLoader::new();
        loader
            .override_global("NODE_ADDR", &node_addr, true)
            .override_global("NODE_ADDR6", &node_addr6, true)
            .override_global("NODE_NETNS", &self.node_netns, true)
            .override_global("SOCKET_LB", &socket_lb, true)
            .override_global("SWITCHING", &switching, true);
        for (name, entries) in sizes.by_map() {
            loader.map_max_entries(name, entries);
        }
        for name in PINNED {
            loader.map_pin_path(name, folder.join(name));
        }
        if let Some((own, other)) = flows {
            for (name, name_of_other) in FLOWS {
                loader.map_pin_path(name, own.join(name)).map_pin_path(name_of_other, other.join(name));
            }
        }
        loader.load(OBJECT).map_err(|source| Error::Load { source: Box::new(source) })
    }
}

/// What the programs are, besides the object and the maps.
impl Hash for Constants {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { options: Options { pin_root: _, cgroup: _, node_addr, node_addr6, sizes: _, socket_lb }, node_netns } = self;
        (node_addr, node_addr6, socket_lb, node_netns).hash(hasher);
    }
}

/// The verifier walks one program on one CPU, and that is most of what a start takes: every CPU has its share.
fn load_programs(mut queue: Vec<(&str, &mut Program)>) -> Result<(), Error> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(queue.len());
    // Taken from the end: those of tc are long, and nobody shall wait for one that was begun last.
    queue.sort_by_key(|(_, program)| is_tc(program));
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || -> Result<(), Error> {
        while let Some((name, program)) = next() {
            load_program(name, program)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let own = work();
        others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))).fold(own, Result::and)
    })
}

fn is_tc(program: &Program) -> bool {
    matches!(program, Program::SchedClassifier(_))
}

fn load_program(name: &str, program: &mut Program) -> Result<(), Error> {
    let result = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    result.map_err(|source| program_error(name, source))
}

pub fn program_error(name: &str, source: ProgramError) -> Error {
    Error::Program { program: name.to_owned(), source: Box::new(source) }
}
