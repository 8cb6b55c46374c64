//! The text form of label selectors: a scanner and a parser with one token of look-ahead.

use std::collections::BTreeSet;

use super::SelectorError;
use super::labels::{Operator, Requirement, key_error};
use crate::field::FieldPath;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// Special characters that are no operator.
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn keyword(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The longest known operator at the start of `text`, which begins with a special character. As upstream does, the
/// scan goes on over further special characters until a longer operator can no longer arise.
fn special(text: &str) -> (Token, String, usize) {
    let mut best = None;
    for (i, c) in text.char_indices() {
        let end = i + c.len_utf8();
        if !is_special(c) {
            break;
        }
        match keyword(&text[..end]) {
            Some(token) => best = Some((token, text[..end].to_owned(), end)),
            None if best.is_some() => break,
            None => {}
        }
    }
    best.unwrap_or_else(|| {
        let end = text.find(|c| !is_special(c)).unwrap_or(text.len());
        (Token::Error, format!("error expected: keyword found '{}'", &text[..end]), end)
    })
}

fn scan(mut rest: &str) -> Vec<(Token, String)> {
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches(is_space);
        let Some(first) = rest.chars().next().filter(|c| *c != '\0') else {
            tokens.push((Token::End, String::new()));
            return tokens;
        };
        if is_special(first) {
            let (token, literal, end) = special(rest);
            tokens.push((token, literal));
            rest = &rest[end..];
        } else {
            let end = rest.find(|c| is_special(c) || is_space(c) || c == '\0').unwrap_or(rest.len());
            let word = &rest[..end];
            tokens.push((keyword(word).unwrap_or(Token::Identifier), word.to_owned()));
            rest = &rest[end..];
        }
    }
}

struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

fn unexpected<T>(found: String, expected: &'static str) -> Result<T, SelectorError> {
    Err(SelectorError::Unexpected { found, expected })
}

impl Parser {
    /// The token here; the scanner always ends with [`Token::End`], which repeats.
    fn raw(&self) -> (Token, String) {
        self.tokens.get(self.at).or(self.tokens.last()).cloned().unwrap_or((Token::End, String::new()))
    }
    /// Where a key or value may stand, `in` and `notin` are ordinary words.
    fn peek(&self) -> (Token, String) {
        match self.raw() {
            (Token::In | Token::NotIn, text) => (Token::Identifier, text),
            other => other,
        }
    }
    fn next(&mut self) -> (Token, String) {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next();
        }
        if token != Token::Identifier {
            return unexpected(key, "identifier");
        }
        if let Some(error) = key_error(&key, &FieldPath::root()) {
            return Err(SelectorError::Invalid(vec![error]));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.list()?,
            _ => self.exact()?,
        };
        Requirement::new(&key, operator, values.into_iter().collect())
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let (token, text) = self.raw();
        self.at += 1;
        match token {
            Token::In => Ok(Operator::In),
            Token::NotIn => Ok(Operator::NotIn),
            Token::Equals => Ok(Operator::Equals),
            Token::DoubleEquals => Ok(Operator::DoubleEquals),
            Token::NotEquals => Ok(Operator::NotEquals),
            Token::Greater => Ok(Operator::GreaterThan),
            Token::Less => Ok(Operator::LessThan),
            _ => unexpected(text, "in, notin, =, ==, !=, gt, lt"),
        }
    }

    fn exact(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next() {
            (Token::Identifier, text) => Ok(BTreeSet::from([text])),
            (_, text) => unexpected(text, "identifier"),
        }
    }

    /// `(a,b)`; left-out values are empty ones.
    fn list(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::Open {
            return Err(SelectorError::NoList(text));
        }
        if !matches!(self.peek().0, Token::Identifier | Token::Comma | Token::Close) {
            return unexpected(self.peek().1, "',', ')' or identifier");
        }
        let mut values = BTreeSet::new();
        let mut expects_value = true;
        loop {
            match self.next() {
                (Token::Identifier, text) if expects_value => {
                    values.insert(text);
                    expects_value = false;
                }
                (Token::Comma, _) => {
                    if expects_value {
                        values.insert(String::new());
                    }
                    expects_value = true;
                }
                (Token::Close, _) => {
                    if expects_value {
                        values.insert(String::new());
                    }
                    return Ok(values);
                }
                (_, text) if expects_value => return unexpected(text, "',', or identifier"),
                (_, text) => return unexpected(text, "',' or ')'"),
            }
        }
    }
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), at: 0 };
    let mut all = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::Not, _) => {
                all.push(parser.requirement().map_err(|e| SelectorError::Requirement(Box::new(e)))?);
                match parser.next() {
                    (Token::End, _) => return Ok(all),
                    (Token::Comma, _) => match parser.peek() {
                        (Token::Identifier | Token::Not, _) => {}
                        (_, found) => return unexpected(found, "identifier after ','"),
                    },
                    (_, found) => return unexpected(found, "',' or 'end of string'"),
                }
            }
            (Token::End, _) => return Ok(all),
            (_, found) => return unexpected(found, "!, identifier, or 'end of string'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LabelSelector;

    #[test]
    fn normal_forms() {
        for (text, normal) in [
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            (" y == b , x ", "x,y==b"),
            ("x!=a", "x!=a"),
            ("x in (b,a)", "x in (a,b)"),
            ("x notin (a)", "x notin (a)"),
            ("x in (,a)", "x in (,a)"),
            ("x in ()", "x in ()"),
            ("x in (a,,)", "x in (,a)"),
            ("in in (in)", "in in (in)"),
            ("x>1,z<5", "x>1,z<5"),
            ("!x,y", "!x,y"),
            ("x=,z= ", "x=,z="),
            ("example.com/a=b", "example.com/a=b"),
        ] {
            assert_eq!(LabelSelector::parse(text).map(|s| s.to_string()), Ok(normal.to_owned()), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, message) in [
            ("x=a||y=b", "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be"),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("x,", "found '', expected: identifier after ','"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("x !! y", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            (
                "a/b/c",
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of",
            ),
            ("x>a", "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators"),
        ] {
            let error = LabelSelector::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
