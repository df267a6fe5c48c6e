//! The programs that are attached now, as the kernel tells, and not as somebody has left them: for whoever wants to know
//! whether packets would be translated, where none can be sent.

use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{ProgramInfo, SchedClassifier};

use crate::{Error, Injected, Outcome, bpffs, links, load::program_error, sys, testrun};

/// One pinned link of a program at an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// As in [`Datapath::test_run`](crate::Datapath::test_run).
    pub program: String,
    /// Name of the interface, as it was when the link was made.
    pub interface: String,
    /// Index of the interface that the link is at; 0: at none any more.
    pub index: u32,
    /// The kernel's number of the program that the link runs.
    id: u32,
}

/// The links of tc programs below a pin root, by name; none when there is no data path.
///
/// # Errors
/// When the pins cannot be read.
pub fn attached(pin_root: &Path) -> Result<Vec<Attached>, Error> {
    let folder = bpffs::links_dir(pin_root);
    let mut found = Vec::new();
    for pin in bpffs::names(&folder)? {
        let program = links::program_of(&pin);
        let Some(interface) = links::interface_of(&pin) else { continue };
        let path = folder.join(&pin);
        let failed = |source| Error::Bpffs { path: path.clone(), action: "cannot ask the pinned link", source };
        let link = match sys::object_get(&path) {
            // Gone meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            link => link.map_err(failed)?,
        };
        let index = sys::link_interface(link.as_fd()).map_err(failed)?;
        let id = sys::link_program(link.as_fd()).map_err(failed)?;
        found.push(Attached { program: program.to_owned(), interface, index, id });
    }
    Ok(found)
}

// === impl Attached ===

impl Attached {
    /// A program at an interface as the kernel would tell of it, without a link behind it: it cannot be run.
    pub fn new(program: &str, interface: &str, index: u32) -> Self {
        Self { program: program.to_owned(), interface: interface.to_owned(), index, id: 0 }
    }

    /// Runs the program of the link on one packet, with the tables that all packets meet. Nothing is sent, but what the
    /// program notes stays noted. `pin_root` as in [`attached`].
    ///
    /// # Errors
    /// [`Error::NoProgram`] when the program that the link runs is none of those that are pinned, as in the middle of a
    /// handover; otherwise as [`Datapath::test_run`](crate::Datapath::test_run).
    pub fn run(&self, pin_root: &Path, input: &Injected<'_>) -> Result<Outcome, Error> {
        for folder in bpffs::program_dirs(pin_root)? {
            let path = folder.join(&self.program);
            let Ok(info) = ProgramInfo::from_pin(&path) else { continue };
            if info.id() == self.id {
                let classifier = SchedClassifier::from_pin(&path).map_err(|source| program_error(&self.program, source))?;
                return testrun::run(&classifier, &self.program, input);
            }
        }
        Err(Error::NoProgram { program: self.program.clone() })
    }
}
