//! What is in the kernel, as rows for people and for JSON. Pure: contents of tables in, rows out; [`live`] reads the tables.
//!
//! Every row is plain data that serialises; [`render`] lays rows of one kind out as a table. [`explain`] says what
//! becomes of one packet, and why; [`top`] what happens per second.

mod affinity;
mod backends;
mod conntrack;
pub mod explain;
mod filter;
pub mod live;
mod services;
mod status;
#[cfg(test)]
mod tests;
pub mod top;

use std::collections::HashMap;

use thalweg_abi::{Proto, ServiceName};

pub use affinity::{AffinityRow, affinity};
pub use backends::{BackendRow, backends};
pub use conntrack::{ConntrackRow, conntrack};
pub use filter::{Filter, Filtered};
pub use services::{EndpointRow, ServiceRow, services};
pub use status::{CountRow, DropRow, MapRow, Status, drops, maps, status};

/// A row of a table for people.
pub trait Row: serde::Serialize {
    const COLUMNS: &'static [&'static str];
    /// Further columns of the wide table.
    const WIDE: &'static [&'static str] = &[];

    /// One text per column. A text of several lines makes the row as high.
    fn cells(&self) -> Vec<String>;

    /// One text per further column.
    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Columns aligned to the left and separated by three blanks, a head line in capitals, no blanks at the ends of lines.
pub fn render<R: Row>(rows: &[R]) -> String {
    lay_out(R::COLUMNS, rows.iter().map(Row::cells))
}

/// As [`render`], with the further columns.
pub fn render_wide<R: Row>(rows: &[R]) -> String {
    let columns: Vec<&str> = R::COLUMNS.iter().chain(R::WIDE).copied().collect();
    lay_out(&columns, rows.iter().map(|row| row.cells().into_iter().chain(row.wide_cells()).collect()))
}

fn lay_out(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|column| (*column).to_owned()).collect()];
    for cells in rows {
        let height = cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
        for line in 0..height {
            lines.push(cells.iter().map(|cell| cell.lines().nth(line).unwrap_or_default().to_owned()).collect());
        }
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            row += &format!("{cell:<width$}   ");
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

fn names(entries: &[(u32, ServiceName)]) -> HashMap<u32, &str> {
    entries.iter().map(|(number, name)| (*number, name.as_str())).collect()
}

/// A service that is still in the kernel, but has no name, shows its number.
fn name_of(names: &HashMap<u32, &str>, number: u32) -> String {
    names.get(&number).map_or_else(|| format!("#{number}"), |name| (*name).to_owned())
}

/// The protocol's name as views show it and filters take it.
pub fn protocol(proto: Proto) -> String {
    match proto {
        Proto::TCP => "tcp".into(),
        Proto::UDP => "udp".into(),
        Proto::ICMP => "icmp".into(),
        Proto::ICMPV6 => "icmpv6".into(),
        Proto::SCTP => "sctp".into(),
        Proto(number) => number.to_string(),
    }
}

/// Words joined by commas, or a dash for none.
fn words(words: &[&str]) -> String {
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}
