//! Draws the live view.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use thalweg_proxy::inspect::Row as _;
use thalweg_proxy::inspect::top::{Sort, TopRow, short};

use super::model::Model;

/// Reasons to drop that are shown; the most frequent come first.
const DROPS: usize = 4;
/// Columns of numbers are this wide.
const NUMBER: u16 = 9;

pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let drops = model.drops().len().min(DROPS);
    let [head, table, foot, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(2),
        Constraint::Length(u16::try_from(drops).unwrap_or_default()),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(summary(model), head);
    services(frame, model, table);
    let lines: Vec<Line<'_>> = model
        .drops()
        .into_iter()
        .take(DROPS)
        .map(|drop| {
            let style = if drop.per_second > 0.0 { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
            let text = format!("dropped {}: {}/s, {} in all", drop.reason, short(drop.per_second), short(drop.total as f64));
            Line::styled(text, style)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), foot);
    frame.render_widget(prompt(model), keys);
}

fn summary(model: &Model) -> Line<'static> {
    let sum = model.sum();
    let text = format!(
        "{}: {} new/s ({} at sockets), {} flows, {}B/s; every {} s{}",
        sum.service,
        short(sum.new_per_second),
        short(sum.sockets_per_second),
        short(sum.flows as f64),
        short(sum.bytes_per_second),
        model.interval.as_secs_f64(),
        if model.is_paused { ", paused" } else { "" }
    );
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn services(frame: &mut Frame<'_>, model: &mut Model, area: ratatui::layout::Rect) {
    let sorted = match model.sort {
        Sort::Name => 0,
        Sort::New => 1,
        Sort::Flows => 3,
        Sort::Bytes => 4,
    };
    let head = TopRow::COLUMNS.iter().enumerate().map(|(index, column)| {
        let style = if index == sorted { Modifier::REVERSED | Modifier::BOLD } else { Modifier::BOLD };
        Cell::from(Span::styled(align(index, column), Style::new().add_modifier(style)))
    });
    let head = Row::new(head.collect::<Vec<_>>());
    let (rows, ..) = model.rows(usize::from(area.height.saturating_sub(1)));
    let rows = rows.into_iter().map(|row| {
        let cells = row.cells().into_iter().enumerate();
        Row::new(cells.map(|(index, cell)| Cell::from(align(index, &cell))).collect::<Vec<_>>())
    });
    let widths = (0..TopRow::COLUMNS.len()).map(|index| match index {
        0 => Constraint::Min(20),
        _ => Constraint::Length(NUMBER),
    });
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

/// Numbers stand below each other.
fn align(column: usize, text: &str) -> String {
    if column == 0 { text.to_owned() } else { format!("{text:>width$}", width = usize::from(NUMBER)) }
}

fn prompt(model: &Model) -> Line<'static> {
    match (&model.typed, &model.filter.service) {
        (Some(typed), _) => Line::from(format!("filter: {typed}_   (Enter keeps it, Esc drops it)")),
        (None, Some(filter)) => Line::from(format!("filter {filter}   / another   q quit")),
        (None, None) => Line::from("sort: c connections  f flows  b bytes  n name  r reverse   / filter   p pause   q quit"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use thalweg_abi::{DropReason, ServiceStats};
    use thalweg_proxy::inspect::Filter;
    use thalweg_proxy::inspect::top::Sample;

    use super::*;

    fn model() -> Model {
        let mut model = Model::new(Sort::New, false, Filter::default(), Duration::from_secs(2));
        for (at, sockets, drops) in [(0, 0, 1), (2, 3_000, 5)] {
            model.feed(Sample {
                at: Duration::from_secs(at),
                names: HashMap::from([(1, "default/web".to_owned()), (2, "default/db".to_owned())]),
                stats: vec![(1, ServiceStats { sockets, flows: 0 })],
                flows: Vec::new(),
                drops: vec![(DropReason::NoRoute, drops)],
            });
        }
        model
    }

    fn screen(model: &mut Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, model)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn the_busiest_service_comes_first() {
        let lines = screen(&mut model(), 100, 8);
        assert!(lines[0].starts_with("2 services: 1.50k new/s (1.50k at sockets), 0 flows"), "{lines:#?}");
        assert!(lines[1].starts_with("SERVICE") && lines[1].ends_with("TOTAL"), "{lines:#?}");
        assert!(lines[2].starts_with("default/web") && lines[2].contains("1.50k"), "{lines:#?}");
        assert!(lines[3].starts_with("default/db"), "{lines:#?}");
        assert_eq!(lines[6], "dropped no_route: 2.0/s, 5.0 in all");
        assert!(lines[7].starts_with("sort: c connections"), "{lines:#?}");
    }

    #[test]
    fn any_size_of_the_window_is_drawn() {
        for (width, height) in [(1, 1), (10, 2), (40, 3), (300, 80)] {
            assert_eq!(screen(&mut model(), width, height).len(), usize::from(height));
        }
    }

    #[test]
    fn a_filter_is_shown_while_it_is_typed() {
        let mut model = model();
        for key in "/db".chars() {
            model.key(ratatui::crossterm::event::KeyCode::Char(key), ratatui::crossterm::event::KeyModifiers::NONE);
        }
        let lines = screen(&mut model, 100, 8);
        assert!(lines[2].starts_with("default/db"), "{lines:#?}");
        assert!(lines[7].starts_with("filter: db_"), "{lines:#?}");
    }
}
