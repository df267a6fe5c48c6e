//! Words become server blocks, and these become directives: a name, arguments on the same line, and perhaps a body.

use super::lexer::Word;
use super::{Error, Result};

/// Bodies within bodies; CoreDNS's own directives have one level.
const MAX_DEPTH: usize = 4;

/// `NAME ARGUMENTS… { BODY }`; lines of a body have the same form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    pub name: String,
    pub line: usize,
    pub arguments: Vec<String>,
    pub body: Vec<Directive>,
}

/// `KEYS… { DIRECTIVES }`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    pub line: usize,
    pub keys: Vec<String>,
    pub directives: Vec<Directive>,
}

/// # Errors
/// Braces that do not pair, or stand where they cannot.
pub fn blocks(words: &[Word]) -> Result<Vec<Block>> {
    let mut rest = words;
    let mut blocks = Vec::new();
    while let Some(first) = rest.first() {
        let (keys, opened) = keys(&mut rest, first.line)?;
        if keys.is_empty() {
            return Err(Error::new(
                first.line,
                "a `{` without a zone before it",
                "name the zones of the block, such as `.:53 {`",
            ));
        }
        let directives = match opened {
            true => body(&mut rest, first.line, 0)?,
            // A file may be one block without braces: what follows the first line is its body.
            false if blocks.is_empty() => lines(&mut rest, 0)?,
            false => {
                return Err(Error::new(
                    first.line,
                    "a server block without `{`",
                    "open it at the end of the line with the zones",
                ));
            }
        };
        if !opened && let Some(word) = rest.first() {
            return Err(Error::new(word.line, "a `}` that closes nothing", "remove it"));
        }
        blocks.push(Block { line: first.line, keys, directives });
    }
    Ok(blocks)
}

/// The zones before a body. They may go on over lines as long as each but the last ends with a comma.
fn keys(rest: &mut &[Word], first: usize) -> Result<(Vec<String>, bool)> {
    let mut keys = Vec::new();
    let (mut line, mut comma) = (first, true);
    while let Some((word, after)) = rest.split_first() {
        if word.is("{") {
            *rest = after;
            return Ok((keys, true));
        }
        if word.is("}") {
            return Err(Error::new(word.line, "a `}` that closes nothing", "remove it"));
        }
        if word.line != line && !comma {
            break;
        }
        (line, comma) = (word.line, word.text.ends_with(','));
        keys.extend(word.text.split(',').filter(|key| !key.is_empty()).map(str::to_owned));
        *rest = after;
    }
    Ok((keys, false))
}

/// What stands between braces; the first is behind us.
fn body(rest: &mut &[Word], opened: usize, depth: usize) -> Result<Vec<Directive>> {
    let directives = lines(rest, depth)?;
    match rest.split_first() {
        Some((_, after)) => *rest = after,
        None => return Err(Error::new(opened, "a `{` that is never closed", "add the closing `}` on a line of its own")),
    }
    Ok(directives)
}

/// Directives until a closing brace or the end, neither of which is taken.
fn lines(rest: &mut &[Word], depth: usize) -> Result<Vec<Directive>> {
    let mut directives = Vec::new();
    while let Some((name, after)) = rest.split_first() {
        if name.is("}") {
            break;
        }
        if name.is("{") {
            return Err(Error::new(
                name.line,
                "a `{` without a directive before it",
                "put it at the end of the directive's line",
            ));
        }
        *rest = after;
        let mut directive = Directive { name: name.text.clone(), line: name.line, arguments: Vec::new(), body: Vec::new() };
        while let Some((word, after)) = rest.split_first() {
            if word.line != name.line {
                break;
            }
            if word.is("}") {
                return Err(Error::new(word.line, "a `}` behind other words", "put it on a line of its own"));
            }
            *rest = after;
            if word.is("{") {
                if after.first().is_some_and(|next| next.line == word.line) {
                    return Err(Error::new(word.line, "words behind a `{`", "put each on a line of its own"));
                }
                if depth == MAX_DEPTH {
                    return Err(Error::new(word.line, "braces within braces within braces", "no directive has so many levels"));
                }
                directive.body = body(rest, word.line, depth + 1)?;
                break;
            }
            directive.arguments.push(word.text.clone());
        }
        directives.push(directive);
    }
    Ok(directives)
}

// === impl Directive ===

impl Directive {
    pub fn error(&self, problem: impl std::fmt::Display, advice: impl Into<String>) -> Error {
        Error::new(self.line, format!("{}: {problem}", self.name), advice)
    }

    /// # Errors
    /// When there is a body.
    pub fn no_body(&self) -> Result<()> {
        match self.body.first() {
            None => Ok(()),
            Some(first) => Err(Error::new(first.line, format!("{} has no options", self.name), "remove the braces")),
        }
    }

    /// # Errors
    /// When there are fewer arguments, or more.
    pub fn arguments_between(&self, least: usize, most: usize, form: &str) -> Result<()> {
        let count = self.arguments.len();
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let problem = if count < least { "an argument is missing" } else { "too many arguments" };
        Err(self.error(problem, format!("write `{form}`")))
    }

    /// # Errors
    /// When there are arguments or a body.
    pub fn bare(&self) -> Result<()> {
        self.arguments_between(0, 0, &self.name)?;
        self.no_body()
    }

    pub fn argument(&self, index: usize) -> Option<&str> {
        self.arguments.get(index).map(String::as_str)
    }
}
