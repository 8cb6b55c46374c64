//! What can be wrong with an expression, and with one evaluation of it.

use std::fmt;

/// A fault of an expression, found before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where, in bytes.
    pub(crate) at: u32,
    /// What, in upstream's words.
    pub message: String,
}

/// All faults of an expression, printed as cel-go prints them: each with the line it is on and a pointer to the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues {
    source: String,
    /// Why it cannot be run though it is well-formed: a pattern in it is not.
    unfit: Option<String>,
    /// In the order of the source.
    pub issues: Vec<Issue>,
}

/// Faults beyond this many are only counted.
const MOST: usize = 100;
const LONGEST_LINE: usize = 16_384;

impl Issues {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        Self { source: source.to_owned(), unfit: None, issues }
    }

    pub(crate) fn unfit(source: &str, reason: String) -> Self {
        Self { source: source.to_owned(), unfit: Some(reason), issues: Vec::new() }
    }

    /// What failed, and how, in one message.
    pub fn failure(&self) -> String {
        match &self.unfit {
            Some(reason) => format!("program instantiation failed: {reason}"),
            None => format!("compilation failed: {self}"),
        }
    }

    fn show(&self, issue: &Issue, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = &self.source[..floor(&self.source, issue.at as usize)];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count());
        write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, issue.message)?;
        let text = self.source[line_start..].lines().next().unwrap_or_default();
        if text.len() > LONGEST_LINE {
            return Ok(());
        }
        write!(f, "\n | {}\n | ", text.replace('\t', " "))?;
        let wide = |c: char| c.len_utf8() > 1;
        for c in text.chars().take(column) {
            f.write_str(if wide(c) { "\u{ff0e}" } else { "." })?;
        }
        f.write_str(if text.chars().nth(column).is_some_and(wide) { "\u{ff3e}" } else { "^" })
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.unfit {
            return f.write_str(reason);
        }
        for (i, issue) in self.issues.iter().take(MOST).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            self.show(issue, f)?;
        }
        match self.issues.len().checked_sub(MOST) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n{more} more errors were truncated"),
        }
    }
}

impl std::error::Error for Issues {}

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The expression failed, as upstream words it; `&&`, `||` and their like may absorb it.
    Failed(String),
    /// Its budget ran out; nothing absorbs that.
    TooCostly,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
    pub(crate) fn no_overload() -> Self {
        Self::new("no such overload")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed(message) => message,
            Self::TooCostly => "operation cancelled: actual cost limit exceeded",
        })
    }
}

impl std::error::Error for Error {}
