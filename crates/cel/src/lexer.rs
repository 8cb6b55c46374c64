//! Tokens of the language.

use crate::ast::Literal;
use crate::error::Issue;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Ident(Box<str>),
    Literal(Literal),
    /// A whole number too large for its literal; which sign it has is not known yet.
    Int(u64),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

pub(crate) struct Spanned {
    pub(crate) at: u32,
    pub(crate) end: u32,
    pub(crate) token: Token,
}

/// Longer ones first.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
    "<", ">",
];

/// The tokens of a source, with what is none of them.
pub(crate) fn tokens(source: &str) -> (Vec<Spanned>, Vec<Issue>) {
    let mut lexer = Lexer { source, at: 0, issues: Vec::new() };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let at = lexer.at;
        let Some(token) = lexer.token() else { continue };
        let end = token == Token::End;
        tokens.push(Spanned { at: at as u32, end: lexer.at as u32, token });
        if end {
            return (tokens, lexer.issues);
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    issues: Vec<Issue>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail(&mut self, at: usize, message: String) {
        self.issues.push(Issue { at: at as u32, message });
    }

    fn skip_space(&mut self) {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                _ => return,
            }
        }
    }

    /// `None` for a character that starts no token.
    fn token(&mut self) -> Option<Token> {
        let first = self.peek(0);
        if self.at == self.source.len() {
            return Some(Token::End);
        }
        if let Some(token) = self.quoted() {
            return Some(token);
        }
        if first.is_ascii_alphabetic() || first == b'_' {
            let rest = self.rest();
            let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            self.at += length;
            return Some(match &rest[..length] {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Sign("in"),
                name => Token::Ident(name.into()),
            });
        }
        if first.is_ascii_digit() || (first == b'.' && self.peek(1).is_ascii_digit()) {
            return Some(self.number());
        }
        if let Some(sign) = SIGNS.iter().find(|sign| self.rest().starts_with(**sign)) {
            self.at += sign.len();
            return Some(Token::Sign(sign));
        }
        let wrong = self.rest().chars().next()?;
        self.fail(self.at, format!("Syntax error: token recognition error at: '{wrong}'"));
        self.at += wrong.len_utf8();
        None
    }

    fn digits(&mut self, is_digit: fn(&u8) -> bool) {
        self.at += self.rest().bytes().take_while(is_digit).count();
    }

    fn number(&mut self) -> Token {
        let start = self.at;
        let hex = self.peek(0) == b'0' && self.peek(1) == b'x' && self.peek(2).is_ascii_hexdigit();
        let mut float = false;
        if hex {
            self.at += 2;
            self.digits(u8::is_ascii_hexdigit);
        } else {
            self.digits(u8::is_ascii_digit);
            if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
                (float, self.at) = (true, self.at + 1);
                self.digits(u8::is_ascii_digit);
            }
            let signed = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if matches!(self.peek(0), b'e' | b'E') && self.peek(1 + signed).is_ascii_digit() {
                (float, self.at) = (true, self.at + 1 + signed);
                self.digits(u8::is_ascii_digit);
            }
        }
        let text = &self.source[start..self.at];
        if float {
            return Token::Literal(Literal::Double(text.parse().unwrap_or(f64::INFINITY)));
        }
        let parsed = if hex { u64::from_str_radix(&text[2..], 16) } else { text.parse() };
        let unsigned = matches!(self.peek(0), b'u' | b'U');
        self.at += usize::from(unsigned);
        match parsed {
            Ok(n) if unsigned => Token::Literal(Literal::Uint(n)),
            Ok(n) => Token::Int(n),
            Err(_) => {
                self.fail(start, format!("invalid {} literal", if unsigned { "uint" } else { "int" }));
                Token::Int(0)
            }
        }
    }

    fn quoted(&mut self) -> Option<Token> {
        let (mut raw, mut bytes, mut prefix) = (false, false, 0);
        loop {
            match self.peek(prefix) {
                b'r' | b'R' if !raw => raw = true,
                b'b' | b'B' if !bytes && !raw => bytes = true,
                b'"' | b'\'' => break,
                _ => return None,
            }
            prefix += 1;
        }
        let start = self.at;
        let body = &self.rest()[prefix..];
        let one = &body[..1];
        let quote = if body.starts_with("\"\"\"") || body.starts_with("'''") { &body[..3] } else { one };
        let inside = &body[quote.len()..];
        let Some(length) = end_of(inside, quote, raw) else {
            self.fail(start, format!("Syntax error: token recognition error at: '{}'", self.rest()));
            self.at = self.source.len();
            return Some(Token::Literal(Literal::String("".into())));
        };
        self.at += prefix + 2 * quote.len() + length;
        let text = &inside[..length];
        let unescaped = if raw { Ok(text.as_bytes().to_vec()) } else { unescape(text, bytes) };
        let content = unescaped.unwrap_or_else(|message| {
            self.fail(start, message.to_owned());
            Vec::new()
        });
        Some(Token::Literal(if bytes {
            Literal::Bytes(content.into())
        } else {
            Literal::String(String::from_utf8_lossy(&content).into())
        }))
    }
}

/// Where the closing quote is.
fn end_of(inside: &str, quote: &str, raw: bool) -> Option<usize> {
    let bytes = inside.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if inside.as_bytes()[i..].starts_with(quote.as_bytes()) {
            return Some(i);
        }
        match bytes[i] {
            b'\\' if !raw => i += 2,
            b'\n' | b'\r' if quote.len() == 1 => return None,
            _ => i += 1,
        }
    }
    None
}

fn unescape(text: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    const FAILED: &str = "unable to unescape string";
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let escape = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let mut code = |digits: usize, radix: u32, first: Option<char>| {
            let text: String = first.into_iter().chain(chars.by_ref()).take(digits).collect();
            let whole = text.len() == digits;
            u32::from_str_radix(&text, radix).ok().filter(|_| whole && !text.starts_with('+')).ok_or(FAILED)
        };
        let (value, is_byte) = match escape {
            'a' => (7, false),
            'b' => (8, false),
            'f' => (12, false),
            'n' => (10, false),
            'r' => (13, false),
            't' => (9, false),
            'v' => (11, false),
            '\\' | '\'' | '"' | '`' | '?' => (escape as u32, false),
            'x' | 'X' => (code(2, 16, None)?, true),
            'u' if !bytes => (code(4, 16, None)?, false),
            'U' if !bytes => (code(8, 16, None)?, false),
            '0'..='3' => {
                let octal = code(3, 8, Some(escape)).map_err(|_| "unable to unescape octal sequence in string")?;
                (octal, true)
            }
            _ => return Err(FAILED),
        };
        if bytes && is_byte {
            out.push(value as u8);
        } else {
            let c = char::from_u32(value).ok_or("invalid unicode code point")?;
            out.extend(c.encode_utf8(&mut [0; 4]).bytes());
        }
    }
    Ok(out)
}
