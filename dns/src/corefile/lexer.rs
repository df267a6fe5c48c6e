//! Words with their lines, by the rules of Caddy's lexer: white space separates, `"` quotes, `#` begins a comment where a
//! word could begin, `{$NAME}` stands for a variable of the environment.

use super::{Error, Result};

/// Longest text that is read: a ConfigMap holds at most 1 MiB.
const MAX_TEXT: usize = 1 << 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// A brace in quotes is no brace.
    pub quoted: bool,
}

// === impl Word ===

impl Word {
    pub fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// # Errors
/// A quote that is not closed; a text beyond all measure.
pub fn words(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Word>> {
    if text.len() > MAX_TEXT {
        return Err(Error::new(1, format!("{} octets of text", text.len()), format!("write at most {MAX_TEXT}")));
    }
    let mut words = Vec::new();
    let mut line = 1;
    let mut rest = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(first) = rest.next() {
        match first {
            '\n' => line += 1,
            first if first.is_whitespace() => {}
            '#' => while rest.next_if(|&next| next != '\n').is_some() {},
            '"' => {
                let start = line;
                let mut word = String::new();
                loop {
                    match rest.next() {
                        None => return Err(Error::new(start, "a quote is opened and never closed", "add the closing `\"`")),
                        Some('"') => break,
                        Some('\\') if rest.next_if_eq(&'"').is_some() => word.push('"'),
                        Some(other) => {
                            line += usize::from(other == '\n');
                            word.push(other);
                        }
                    }
                }
                words.push(Word { text: substitute(&word, environment), line: start, quoted: true });
            }
            first => {
                let mut word = String::from(first);
                while let Some(next) = rest.next_if(|next| !next.is_whitespace()) {
                    word.push(next);
                }
                words.push(Word { text: substitute(&word, environment), line, quoted: false });
            }
        }
    }
    Ok(words)
}

/// Puts values in the places of `{$NAME}` and `{%NAME%}`. Values are not looked at again.
fn substitute(word: &str, environment: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some((start, open, close)) =
        [("{$", "}"), ("{%", "%}")].iter().filter_map(|(open, close)| Some((rest.find(open)?, *open, *close))).min()
    {
        let inside = &rest[start + open.len()..];
        let Some(end) = inside.find(close) else { break };
        text.push_str(&rest[..start]);
        text.push_str(&environment(&inside[..end]).unwrap_or_default());
        rest = &inside[end + close.len()..];
    }
    text + rest
}
