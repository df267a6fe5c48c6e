//! What is in the kernel, as rows for people and for JSON. Pure: contents of tables in, rows out.
//!
//! Every row is plain data that serialises; [`render`] lays rows of one kind out as a table.

mod conntrack;
mod services;
mod status;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use thalweg_abi::{Proto, ServiceName};

pub use conntrack::{ConntrackRow, conntrack};
pub use services::{EndpointRow, ServiceRow, services};
pub use status::{CountRow, MapRow, Status, status};

/// A row of a table for people.
pub trait Row: serde::Serialize {
    const COLUMNS: &'static [&'static str];

    /// One text per column. A text of several lines makes the row as high.
    fn cells(&self) -> Vec<String>;
}

/// Columns aligned to the left and separated by three blanks, a head line in capitals, no blanks at the ends of lines.
pub fn render<R: Row>(rows: &[R]) -> String {
    let head: Vec<String> = R::COLUMNS.iter().map(|column| (*column).to_owned()).collect();
    let mut lines: Vec<Vec<String>> = vec![head];
    for row in rows {
        let cells: Vec<String> = row.cells();
        let height = cells.iter().map(|cell| cell.lines().count()).max().unwrap_or(1).max(1);
        for line in 0..height {
            lines.push(cells.iter().map(|cell| cell.lines().nth(line).unwrap_or_default().to_owned()).collect());
        }
    }
    let widths: Vec<usize> = (0..R::COLUMNS.len())
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

fn protocol(proto: Proto) -> String {
    match proto {
        Proto::TCP => "tcp".into(),
        Proto::UDP => "udp".into(),
        Proto::ICMP => "icmp".into(),
        Proto::SCTP => "sctp".into(),
        Proto(number) => number.to_string(),
    }
}
