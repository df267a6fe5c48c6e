//! A case: what happens to a fresh node, one step a line. What fails is printed as a script, shrunk; a script that is kept
//! in `found/` runs again with every test.
//!
//! ```text
//! # what it is
//! service 0 3 0
//! frame 0200…0800 45… via from_pod_a,from_wire answered
//! ```
//! Frames are hex; `answered` lets the one that a translated packet goes to answer it.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result, bail};

use crate::{
    model::State,
    mutate::{Mutation, mutated},
    seeds::{Seed, hex, unhex},
};

/// At which hook a packet appears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    FromPodA,
    FromPodB,
    FromWire,
    ToPodA,
    /// Made by the node's own stack.
    ToWire,
    /// Of a pod, on its way out.
    Forwarded,
}

#[derive(Clone, Debug)]
pub enum Step {
    State(State),
    Frame(Frame),
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub seed: Vec<u8>,
    pub mutations: Vec<Mutation>,
    pub ways: Vec<Way>,
    pub answered: bool,
}

// === impl Way ===

impl Way {
    pub const ALL: [Self; 6] = [Self::FromPodA, Self::FromPodB, Self::FromWire, Self::ToPodA, Self::ToWire, Self::Forwarded];

    pub fn program(self) -> &'static str {
        match self {
            Self::FromPodA | Self::FromPodB => "tc_from_pod",
            Self::FromWire => "tc_from_wire",
            Self::ToPodA => "tc_to_pod",
            Self::ToWire | Self::Forwarded => "tc_to_wire",
        }
    }

    /// Whether the packet comes in here; else it leaves.
    pub fn is_ingress(self) -> bool {
        matches!(self, Self::FromPodA | Self::FromPodB | Self::FromWire)
    }

    fn name(self) -> &'static str {
        match self {
            Self::FromPodA => "from_pod_a",
            Self::FromPodB => "from_pod_b",
            Self::FromWire => "from_wire",
            Self::ToPodA => "to_pod_a",
            Self::ToWire => "to_wire",
            Self::Forwarded => "forwarded",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Frame ===

impl Frame {
    pub fn bytes(&self, seeds: &[Seed]) -> Vec<u8> {
        mutated(&self.seed, &self.mutations, seeds)
    }
}

// === impl Step ===

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let Some(rest) = line.strip_prefix("frame ") else { return Ok(Self::State(line.parse()?)) };
        let (bytes, rest) = rest.split_once(" via ").with_context(|| format!("no `via` in {line:?}"))?;
        let mut words = rest.split_whitespace();
        let ways = words.next().unwrap_or_default().split(',').map(|name| {
            Way::ALL.into_iter().find(|way| way.name() == name).with_context(|| format!("no hook {name:?} in {line:?}"))
        });
        let ways = ways.collect::<Result<_>>()?;
        let answered = match words.next() {
            None => false,
            Some("answered") => true,
            Some(word) => bail!("{word:?} in {line:?}"),
        };
        Ok(Self::Frame(Frame { seed: unhex(&bytes.replace(' ', ""))?, mutations: Vec::new(), ways, answered }))
    }
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::parse).collect()
}

/// Writes a script, mutations carried out.
pub fn print(steps: &[Step], seeds: &[Seed]) -> String {
    let line = |step: &Step| match step {
        Step::State(state) => format!("{state}\n"),
        Step::Frame(frame) => {
            let ways: Vec<_> = frame.ways.iter().map(|way| way.name()).collect();
            let answered = if frame.answered { " answered" } else { "" };
            format!("frame {} via {}{answered}\n", hex(&frame.bytes(seeds)), ways.join(","))
        }
    };
    steps.iter().map(line).collect()
}

#[test]
fn a_script_is_read_as_it_was_written() {
    let text = "service 0 3 8\nbackend 1 2 7\npod 0 0\nadmit 1\nfill 3\nage 100\nsweep\n\
                frame 0102ff via from_pod_a,to_wire,forwarded answered\nframe 00 via from_wire\n";
    let steps = parse(&format!("# what it is\n\n{text}")).expect("a script");
    assert_eq!(print(&steps, &[]), text);
    for wrong in
        ["", "service 99 0 0", "service 1", "frame 00", "frame 0 via to_wire", "frame 00 via up", "frame 00 via to_wire x"]
    {
        assert!(wrong.parse::<Step>().is_err(), "{wrong:?}");
    }
}
