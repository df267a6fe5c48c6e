//! Times tc programs on one CPU, without any wire: for benches. See `ebpf/programs/src/driver.rs` for how.

use std::time::Duration;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{Program, ProgramError, ProgramFd, SchedClassifier, TestRun, TestRunOptions},
};
use thalweg_abi::driver::{FLOWS_MOST, IPV4_HEADERS, IPV6_HEADERS, Template};

use crate::{Datapath, Error, object::DRIVER, testrun};

/// The loaded driver.
#[derive(Debug)]
pub struct Driver {
    ebpf: Ebpf,
}

/// The packet that is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Ethernet, IP (of either family, without options) and TCP or UDP headers, and data.
    pub bytes: &'a [u8],
    /// The interface it is on; must exist in the network namespace of the calling thread.
    pub ifindex: u32,
    /// How many flows take turns, told by their source ports.
    pub flows: u32,
}

// === impl Driver ===

impl Driver {
    /// # Errors
    /// [`Error::NoObject`] in a build without kernel programs, [`Error::Load`] when the kernel refuses.
    pub fn load() -> Result<Self, Error> {
        if DRIVER.is_empty() {
            return Err(Error::NoObject);
        }
        let mut ebpf = EbpfLoader::new().load(DRIVER).map_err(|source| Error::Load { source: Box::new(source) })?;
        for (name, program) in ebpf.programs_mut() {
            if let Program::SchedClassifier(program) = program {
                program.load().map_err(|source| refused(name, source))?;
            }
        }
        Ok(Self { ebpf })
    }

    /// Time per packet of a program of the data path, the driver's own included; `None` for the driver over a program that
    /// does nothing. Nothing is sent: redirects are verdicts here.
    ///
    /// # Errors
    /// [`Error::NoProgram`] for an unknown program, [`Error::Program`] when the kernel refuses the packet.
    pub fn time(
        &mut self,
        datapath: &Datapath,
        program: Option<&str>,
        frame: &Frame<'_>,
        repeat: u32,
    ) -> Result<Duration, Error> {
        let is_v6 = frame.bytes.get(12..14) == Some(&[0x86, 0xdd]);
        let (driver, headers) = if is_v6 { ("drive6", IPV6_HEADERS) } else { ("drive4", IPV4_HEADERS) };
        let mut bytes = [0; 80];
        let given = frame.bytes.len().min(headers);
        bytes[..given].copy_from_slice(&frame.bytes[..given]);
        let template = Template { bytes, flows: frame.flows.clamp(1, FLOWS_MOST), next: 0 };
        let under_test = match program {
            Some(program) => descriptor(datapath.classifier(program)?.fd(), program)?,
            None => descriptor(self.program("noop")?.fd(), "noop")?,
        };
        self.fill(template, &under_test)?;
        let Program::SchedClassifier(classifier) = self.program(driver)? else {
            return Err(Error::NoProgram { program: driver.to_owned() });
        };
        run(classifier, driver, frame, repeat)
    }

    fn program(&self, name: &str) -> Result<&Program, Error> {
        self.ebpf.program(name).ok_or_else(|| Error::NoProgram { program: name.to_owned() })
    }

    fn fill(&mut self, template: Template, under_test: &ProgramFd) -> Result<(), Error> {
        let table =
            |table: &'static str, source: aya::maps::MapError| Error::Table { table, source: std::io::Error::other(source) };
        let missing = || Error::NoProgram { program: "driver".to_owned() };
        let mut templates: Array<_, Template> =
            self.ebpf.map_mut("TEMPLATE").ok_or_else(missing)?.try_into().map_err(|source| table("TEMPLATE", source))?;
        templates.set(0, template, 0).map_err(|source| table("TEMPLATE", source))?;
        let mut programs: ProgramArray<_> =
            self.ebpf.map_mut("UNDER_TEST").ok_or_else(missing)?.try_into().map_err(|source| table("UNDER_TEST", source))?;
        programs.set(0, under_test, 0).map_err(|source| table("UNDER_TEST", source))
    }
}

fn descriptor(fd: Result<&ProgramFd, ProgramError>, name: &str) -> Result<ProgramFd, Error> {
    let fd = fd.map_err(|source| refused(name, source))?;
    fd.try_clone().map_err(|source| refused(name, ProgramError::IOError(source)))
}

fn run(classifier: &SchedClassifier, name: &str, frame: &Frame<'_>, repeat: u32) -> Result<Duration, Error> {
    let context = testrun::context(frame.ifindex, 0, 0);
    let result = classifier
        .test_run(TestRunOptions { data_in: Some(frame.bytes), ctx_in: Some(&context), repeat, ..TestRunOptions::new() })
        .map_err(|source| refused(name, source))?;
    Ok(result.duration)
}

fn refused(name: &str, source: ProgramError) -> Error {
    Error::Program { program: name.to_owned(), source: Box::new(source) }
}
