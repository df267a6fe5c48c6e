//! CoreDNS's configuration file, read as it is: text becomes a [`Corefile`], or an [`Error`] with its line and what to do.
//!
//! Pure: files that the text names (resolv.conf, hosts) are only named here. What this server does by itself is accepted
//! and has no effect; what it cannot do is an error, since a directive that is silently ignored is found out in an outage.
//!
//! - [`lexer`]: words with their lines. [`tree`]: words become directives with arguments and bodies.
//! - [`values`]: durations, numbers, zones, addresses. One file for each directive that has options worth a file.

mod access;
mod cache;
mod directives;
mod forward;
mod hosts;
mod kubernetes;
mod lexer;
mod model;
mod rewrite;
mod tree;
mod unsupported;
mod values;

pub use model::*;
pub use values::{DNS_PORT, upstream};

/// What is wrong with a Corefile, and where.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("Corefile line {line}: {problem}; {advice}")]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    pub problem: String,
    /// What the operator can do.
    pub advice: String,
}

pub type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    fn new(line: usize, problem: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { line, problem: problem.into(), advice: advice.into() }
    }
}

/// Reads a Corefile. `environment` gives the values of `{$NAME}`; a name without a value is empty, as in CoreDNS.
///
/// # Errors
/// At the first thing that is malformed, unknown or not supported.
pub fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Corefile> {
    let words = lexer::words(text, environment)?;
    let blocks = tree::blocks(&words)?;
    let servers: Vec<ServerBlock> = blocks.iter().map(directives::server).collect::<Result<_>>()?;
    if servers.is_empty() {
        return Err(Error::new(
            1,
            "there is no server block",
            "write at least `. { forward . /etc/resolv.conf }` on three lines",
        ));
    }
    one_of_each(&servers)?;
    Ok(Corefile { servers })
}

/// A zone is served on a port by one block only.
fn one_of_each(servers: &[ServerBlock]) -> Result<()> {
    for (index, server) in servers.iter().enumerate() {
        for key in &server.keys {
            let other = servers[..index].iter().find(|other| other.binds_meet(server) && other.keys.contains(key));
            if let Some(other) = other {
                let zone = crate::name::display(&key.zone);
                let problem = format!("zone {zone} on port {} is served by the block of line {} already", key.port, other.line);
                return Err(Error::new(server.line, problem, "merge the two blocks"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
