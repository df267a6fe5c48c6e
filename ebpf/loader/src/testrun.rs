//! One packet into one tc program, without any wire (BPF_PROG_TEST_RUN).

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use thalweg_abi::HELD_BYTES;

use crate::{Datapath, Error};

/// Room for what a program may add to a packet, or for a fragment that it has held and makes of it.
const HEADROOM: usize = 512 + HELD_BYTES;

/// Word positions in the kernel's `__sk_buff`, of the fields that a test may set.
const MARK: usize = 2;
const INGRESS_IFINDEX: usize = 9;
const IFINDEX: usize = 10;
/// The whole of it: a shorter one is copied out in part, and the run then fails with ENOSPC.
const WORDS: usize = 48;

/// A packet, and what the program is told about it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Injected<'a> {
    /// From the Ethernet header on.
    pub packet: &'a [u8],
    /// The interface the packet is on; must exist in the network namespace of the calling thread. 0: loopback.
    pub ifindex: u32,
    /// The interface the packet came from; 0: none.
    pub ingress_ifindex: u32,
    pub mark: u32,
}

/// What the program did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The program's return value: TC_ACT_*.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    pub mark: u32,
}

/// What a program is told about its packet, as the kernel takes it.
pub(crate) fn context(ifindex: u32, ingress_ifindex: u32, mark: u32) -> Vec<u8> {
    let mut context = [0_u32; WORDS];
    context[MARK] = mark;
    context[INGRESS_IFINDEX] = ingress_ifindex;
    context[IFINDEX] = ifindex;
    context.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl Datapath {
    /// Runs a tc program on one packet. Redirects are verdicts here; nothing is sent.
    ///
    /// # Errors
    /// [`Error::NoProgram`] for an unknown or non-tc program, [`Error::Program`] when the kernel refuses the input
    /// (a packet shorter than an Ethernet header, an interface that does not exist).
    pub fn test_run(&self, program: &str, input: &Injected<'_>) -> Result<Outcome, Error> {
        run(&self.classifier(program)?, program, input)
    }
}

/// Runs a program as [`Datapath::test_run`] does.
pub(crate) fn run(classifier: &SchedClassifier, program: &str, input: &Injected<'_>) -> Result<Outcome, Error> {
    let context = context(input.ifindex, input.ingress_ifindex, input.mark);
    let mut context_out = vec![0; context.len()];
    let mut packet = vec![0; input.packet.len() + HEADROOM];
    let result = classifier
        .test_run(TestRunOptions {
            data_in: Some(input.packet),
            data_out: Some(&mut packet),
            ctx_in: Some(&context),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::new()
        })
        .map_err(|source| Error::Program { program: program.to_owned(), source: Box::new(source) })?;
    packet.truncate(result.data_size_out as usize);
    let mark = context_out.chunks_exact(4).nth(MARK).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Ok(Outcome { verdict: result.return_value.cast_signed(), packet, mark })
}
