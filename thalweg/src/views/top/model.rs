//! What the live view shows, and what keys do to it. No terminal here.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use thalweg_proxy::inspect::Filter;
use thalweg_proxy::inspect::top::{DropRate, Sample, Sort, Top, TopRow};

/// Between two looks, at least and at most.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);

/// The view's state.
pub struct Model {
    top: Top,
    pub sort: Sort,
    pub reverse: bool,
    pub filter: Filter,
    /// What is being typed as a filter.
    pub typed: Option<String>,
    pub interval: Duration,
    pub is_paused: bool,
    pub quits: bool,
    /// The first row that is shown.
    offset: usize,
    /// Rows that fit, as drawn last.
    height: usize,
}

// === impl Model ===

impl Model {
    pub fn new(sort: Sort, reverse: bool, filter: Filter, interval: Duration) -> Self {
        Self {
            top: Top::default(),
            sort,
            reverse,
            filter,
            typed: None,
            interval,
            is_paused: false,
            quits: false,
            offset: 0,
            height: 0,
        }
    }

    pub fn feed(&mut self, sample: Sample) {
        self.top.feed(sample);
    }

    /// The services that fit into `height` rows, with the number of the first and how many there are.
    pub fn rows(&mut self, height: usize) -> (Vec<&TopRow>, usize, usize) {
        self.height = height;
        let rows = self.top.rows(self.sort, self.reverse, &self.filter);
        let count = rows.len();
        self.offset = self.offset.min(count.saturating_sub(height));
        (rows.into_iter().skip(self.offset).take(height).collect(), self.offset, count)
    }

    pub fn sum(&self) -> TopRow {
        self.top.sum()
    }

    pub fn drops(&self) -> Vec<&DropRate> {
        self.top.drops()
    }

    pub fn key(&mut self, code: KeyCode, modifiers: KeyModifiers) {
        if code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL) {
            self.quits = true;
            return;
        }
        if let Some(typed) = &mut self.typed {
            match code {
                KeyCode::Enter => self.typed = None,
                KeyCode::Esc => {
                    self.typed = None;
                    self.filter.service = None;
                }
                KeyCode::Backspace => {
                    typed.pop();
                    self.filter.service = pattern(typed);
                }
                KeyCode::Char(letter) => {
                    typed.push(letter);
                    self.filter.service = pattern(typed);
                }
                _ => {}
            }
            return;
        }
        match code {
            KeyCode::Char('q') | KeyCode::Esc => self.quits = true,
            KeyCode::Char('c') => self.sort_by(Sort::New),
            KeyCode::Char('f') => self.sort_by(Sort::Flows),
            KeyCode::Char('b') => self.sort_by(Sort::Bytes),
            KeyCode::Char('n') => self.sort_by(Sort::Name),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => {
                self.typed = Some(String::new());
                self.filter.service = None;
            }
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(LONGEST),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(SHORTEST),
            KeyCode::Down => self.offset = self.offset.saturating_add(1),
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset = self.offset.saturating_add(self.height),
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.height),
            KeyCode::Home => self.offset = 0,
            // `rows` knows where the end is.
            KeyCode::End => self.offset = usize::MAX,
            _ => {}
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.offset = 0;
    }
}

/// What was typed may stand anywhere in a service's name, of any namespace.
fn pattern(typed: &str) -> Option<String> {
    let wanted = typed.trim();
    if wanted.is_empty() {
        return None;
    }
    // A pattern with a slash is compared with the namespace and the name, one without it with the name.
    Some(match wanted.split_once('/') {
        Some((namespace, name)) => format!("*{namespace}/{name}*"),
        None => format!("*{wanted}*"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn model(services: usize) -> Model {
        let mut model = Model::new(Sort::Name, false, Filter::default(), Duration::from_secs(2));
        let names: HashMap<u32, String> =
            (0..services).map(|number| (u32::try_from(number).expect("few"), format!("default/web-{number:03}"))).collect();
        model.feed(Sample { names, ..Sample::default() });
        model
    }

    fn press(model: &mut Model, keys: &[KeyCode]) {
        for key in keys {
            model.key(*key, KeyModifiers::NONE);
        }
    }

    fn first(model: &mut Model, height: usize) -> String {
        model.rows(height).0.first().map(|row| row.service.clone()).unwrap_or_default()
    }

    #[test]
    fn scrolling_ends_where_the_rows_do() {
        let mut model = model(25);
        assert_eq!(first(&mut model, 10), "default/web-000");
        press(&mut model, &[KeyCode::PageDown]);
        assert_eq!(first(&mut model, 10), "default/web-010");
        press(&mut model, &[KeyCode::End]);
        assert_eq!(first(&mut model, 10), "default/web-015");
        press(&mut model, &[KeyCode::Down, KeyCode::Down]);
        assert_eq!(first(&mut model, 10), "default/web-015");
        press(&mut model, &[KeyCode::Up]);
        assert_eq!(first(&mut model, 10), "default/web-014");
        // A larger window shows more of what is there.
        assert_eq!(first(&mut model, 40), "default/web-000");
        press(&mut model, &[KeyCode::PageUp, KeyCode::Home]);
        assert_eq!(model.rows(10).1, 0);
    }

    #[test]
    fn a_filter_takes_effect_while_it_is_typed() {
        let mut model = model(25);
        press(&mut model, &[KeyCode::Char('/'), KeyCode::Char('-'), KeyCode::Char('0'), KeyCode::Char('2')]);
        assert_eq!(model.rows(10).2, 5);
        press(&mut model, &[KeyCode::Char('q')]);
        assert!(!model.quits, "a letter of the filter quits nothing");
        assert_eq!(model.rows(10).2, 0);
        press(&mut model, &[KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!((model.rows(10).2, model.typed.is_none()), (5, true));
        press(&mut model, &[KeyCode::Char('/'), KeyCode::Esc]);
        assert_eq!(model.rows(10).2, 25);
    }

    #[test]
    fn a_filter_with_a_slash_is_about_namespaces() {
        assert_eq!(pattern("fault/web"), Some("*fault/web*".to_owned()));
        assert_eq!(pattern(" "), None);
    }

    #[test]
    fn keys_sort_pause_and_quit() {
        let mut model = model(3);
        press(&mut model, &[KeyCode::Char('b'), KeyCode::Char('r'), KeyCode::Char('p')]);
        assert_eq!((model.sort, model.reverse, model.is_paused), (Sort::Bytes, true, true));
        press(&mut model, &[KeyCode::Char('c')]);
        assert_eq!((model.sort, model.quits), (Sort::New, false));
        model.key(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(model.quits);
    }

    #[test]
    fn the_interval_has_bounds() {
        let mut model = model(1);
        press(&mut model, &[KeyCode::Char('-'); 10]);
        assert_eq!(model.interval, SHORTEST);
        press(&mut model, &[KeyCode::Char('+'); 12]);
        assert_eq!(model.interval, LONGEST);
    }
}
