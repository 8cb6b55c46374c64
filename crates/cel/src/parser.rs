//! From source to [`Expr`], by precedence climbing. The first syntax error ends it.

use crate::ast::{Entry, Expr, FieldInit, Fold, Kind, Literal, Name, op};
use crate::error::Issue;
use crate::lexer::{Spanned, Token, tokens};
use crate::macros;

/// How deep source may nest, as upstream.
const MAX_NESTING: usize = 250;
/// How deep the tree may get; macros add a few levels to what is nested.
const MAX_DEPTH: u16 = 500;
/// How long a source may be, in characters, as upstream.
const MAX_SIZE: usize = 100_000;

/// How many nodes a tree may have: macros that name their receiver twice double it each time.
const MAX_NODES: u32 = 200_000;

/// Words that are kept for languages like this one and name nothing.
pub(crate) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const OPERAND: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                       BYTES, IDENTIFIER}";

/// The tree of a source and how many nodes it has. `bindings`: whether `cel.bind` is a macro.
pub(crate) fn parse(source: &str, bindings: bool) -> Result<(Expr, u32), Vec<Issue>> {
    let size = source.chars().count();
    if size > MAX_SIZE {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_SIZE}");
        return Err(vec![Issue { at: 0, message }]);
    }
    let (tokens, issues) = tokens(source);
    let mut parser = Parser { source, tokens, next: 0, nesting: 0, nodes: 0, issues, bindings };
    match parser.whole() {
        Ok(expr) if parser.issues.is_empty() => Ok((expr, parser.nodes)),
        Ok(_) => Err(parser.issues),
        Err(issue) => {
            parser.issues.push(issue);
            Err(parser.issues)
        }
    }
}

pub(crate) struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Spanned>,
    next: usize,
    nesting: usize,
    nodes: u32,
    issues: Vec<Issue>,
    /// Whether there is the macro `cel.bind`.
    pub(crate) bindings: bool,
}

type Parsed = Result<Expr, Issue>;

fn issue(at: u32, message: impl Into<String>) -> Issue {
    Issue { at, message: message.into() }
}

impl Parser<'_> {
    /// A node at a place; refuses trees that are too deep.
    pub(crate) fn node(&mut self, at: u32, kind: Kind) -> Parsed {
        let below = match &kind {
            Kind::Literal(_) | Kind::Ident(_) => 0,
            Kind::Select { operand, .. } => operand.depth,
            Kind::Call { target, args, .. } => deepest(target.as_deref().into_iter().chain(args)),
            Kind::List { items, .. } => deepest(items),
            Kind::Map(entries) => deepest(entries.iter().flat_map(|e| [&e.key, &e.value])),
            Kind::Struct { fields, .. } => deepest(fields.iter().map(|f| &f.value)),
            Kind::Fold(fold) => {
                let Fold { range, init, condition, step, result, .. } = &**fold;
                deepest([range, init, condition, step, result])
            }
        };
        if below >= MAX_DEPTH {
            return Err(issue(at, "max recursion depth exceeded"));
        }
        if self.nodes >= MAX_NODES {
            return Err(issue(at, format!("expression has more than {MAX_NODES} parts")));
        }
        self.nodes += 1;
        Ok(Expr { id: self.nodes - 1, at, depth: below + 1, kind })
    }

    pub(crate) fn call(&mut self, at: u32, name: impl Into<Name>, args: Vec<Expr>) -> Parsed {
        self.node(at, Kind::Call { name: name.into(), target: None, args })
    }

    /// A copy with numbers of its own.
    pub(crate) fn copy(&mut self, expr: &Expr) -> Parsed {
        let mut kind = expr.kind.clone();
        let mut renumber = |e: &mut Expr| -> Result<(), Issue> {
            *e = self.copy(e)?;
            Ok(())
        };
        match &mut kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => renumber(operand)?,
            Kind::Call { target, args, .. } => {
                target.as_deref_mut().into_iter().chain(args).try_for_each(renumber)?;
            }
            Kind::List { items, .. } => items.iter_mut().try_for_each(renumber)?,
            Kind::Map(entries) => entries.iter_mut().flat_map(|e| [&mut e.key, &mut e.value]).try_for_each(renumber)?,
            Kind::Struct { fields, .. } => fields.iter_mut().map(|f| &mut f.value).try_for_each(renumber)?,
            Kind::Fold(f) => {
                [&mut f.range, &mut f.init, &mut f.condition, &mut f.step, &mut f.result]
                    .into_iter()
                    .try_for_each(renumber)?;
            }
        }
        self.node(expr.at, kind)
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn at(&self) -> u32 {
        self.tokens[self.next].at
    }

    fn shown(&self) -> &str {
        let token = &self.tokens[self.next];
        if token.token == Token::End { "<EOF>" } else { &self.source[token.at as usize..token.end as usize] }
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.next += 1;
        }
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.next += usize::from(found);
        found
    }

    fn unexpected(&self, wanted: &str) -> Issue {
        issue(self.at(), format!("Syntax error: mismatched input '{}' expecting {wanted}", self.shown()))
    }

    fn expect(&mut self, sign: &str) -> Result<(), Issue> {
        if self.eat(sign) { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn whole(&mut self) -> Parsed {
        let expr = self.expr()?;
        match self.peek() {
            Token::End => Ok(expr),
            // One token too many is named otherwise.
            _ if self.tokens[self.next + 1].token == Token::End => {
                Err(issue(self.at(), format!("Syntax error: extraneous input '{}' expecting <EOF>", self.shown())))
            }
            _ => Err(self.unexpected("<EOF>")),
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Issue>) -> Result<T, Issue> {
        if self.nesting >= MAX_NESTING {
            return Err(issue(0, format!("expression recursion limit exceeded: {MAX_NESTING}")));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn expr(&mut self) -> Parsed {
        self.nested(|p| {
            let condition = p.climb(0)?;
            let at = p.at();
            if !p.eat("?") {
                return Ok(condition);
            }
            let yes = p.climb(0)?;
            p.expect(":")?;
            let no = p.expr()?;
            p.call(at, op::CONDITIONAL, vec![condition, yes, no])
        })
    }

    /// Operators of `level` and tighter ones, all grouping to the left.
    fn climb(&mut self, level: usize) -> Parsed {
        let mut left = self.unary()?;
        while let Some((found, name)) = self.operator().filter(|(found, _)| *found >= level) {
            left = if found < 2 { self.chain(found, name, left)? } else { self.infix(found, name, left)? };
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(usize, &'static str)> {
        let Token::Sign(sign) = self.peek() else { return None };
        Some(match *sign {
            "||" => (0, op::OR),
            "&&" => (1, op::AND),
            "<" => (2, "_<_"),
            "<=" => (2, "_<=_"),
            ">" => (2, "_>_"),
            ">=" => (2, "_>=_"),
            "==" => (2, op::EQUALS),
            "!=" => (2, op::NOT_EQUALS),
            "in" => (2, op::IN),
            "+" => (3, op::ADD),
            "-" => (3, "_-_"),
            "*" => (4, "_*_"),
            "/" => (4, "_/_"),
            "%" => (4, "_%_"),
            _ => return None,
        })
    }

    fn infix(&mut self, level: usize, name: &'static str, left: Expr) -> Parsed {
        let at = self.at();
        self.next += 1;
        let right = self.climb(level + 1)?;
        self.call(at, name, vec![left, right])
    }

    /// A chain of `||` or of `&&`, as a balanced tree.
    fn chain(&mut self, level: usize, name: &'static str, first: Expr) -> Parsed {
        let (mut terms, mut places) = (vec![Some(first)], Vec::new());
        while self.operator() == Some((level, name)) {
            places.push(self.at());
            self.next += 1;
            terms.push(Some(self.climb(level + 1)?));
        }
        self.balanced(name, &mut terms, &places, 0, places.len().saturating_sub(1))
    }

    fn balanced(
        &mut self,
        name: &'static str,
        terms: &mut [Option<Expr>],
        places: &[u32],
        low: usize,
        high: usize,
    ) -> Parsed {
        let middle = (low + high).div_ceil(2);
        let leaf = |terms: &mut [Option<Expr>], i: usize| terms[i].take().ok_or_else(|| issue(0, "unexpected failure"));
        let left = if middle == low { leaf(terms, low)? } else { self.balanced(name, terms, places, low, middle - 1)? };
        let right = match middle == high {
            true => leaf(terms, high + 1)?,
            false => self.balanced(name, terms, places, middle + 1, high)?,
        };
        self.call(places[middle], name, vec![left, right])
    }

    fn unary(&mut self) -> Parsed {
        let (at, mut count) = (self.at(), 0);
        let sign = if self.is("!") { "!" } else { "-" };
        while self.is(sign) && !(sign == "-" && self.is_negative_literal()) {
            (count, self.next) = (count + 1, self.next + 1);
        }
        let operand = self.member()?;
        match count % 2 {
            0 => Ok(operand),
            _ => self.call(at, if sign == "!" { op::NOT } else { op::NEGATE }, vec![operand]),
        }
    }

    fn is_negative_literal(&self) -> bool {
        let number = self.tokens.get(self.next + 1).map(|t| &t.token);
        self.is("-") && matches!(number, Some(Token::Int(_) | Token::Literal(Literal::Double(_))))
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                let (name_at, name) = (self.at(), self.name()?);
                if !optional && self.is("(") {
                    let open = self.at();
                    let args = self.arguments()?;
                    expr = macros::member_call(self, open, &name, expr, args)?;
                } else if optional {
                    let field = self.node(name_at, Kind::Literal(Literal::String(name)))?;
                    expr = self.call(at, op::OPT_SELECT, vec![expr, field])?;
                } else {
                    expr = self.node(at, Kind::Select { operand: Box::new(expr), field: name, test: false })?;
                }
            } else if self.eat("[") {
                let name = if self.eat("?") { op::OPT_INDEX } else { op::INDEX };
                let index = self.expr()?;
                self.expect("]")?;
                expr = self.call(at, name, vec![expr, index])?;
            } else if self.is("{")
                && let Some(name) = expr.qualified_name()
            {
                expr = self.structure(name)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn name(&mut self) -> Result<Box<str>, Issue> {
        match self.peek() {
            Token::Ident(name) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Issue> {
        self.expect("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            args.push(self.expr()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        if self.is_negative_literal() {
            self.next += 1;
            let literal = match self.advance() {
                Token::Int(n) => Literal::Int(int(n, true).ok_or_else(|| issue(at, "invalid int literal"))?),
                Token::Literal(Literal::Double(n)) => Literal::Double(-n),
                _ => Literal::Null,
            };
            return self.node(at, Kind::Literal(literal));
        }
        if self.eat("(") {
            let inner = self.expr();
            return inner.and_then(|inner| self.expect(")").map(|()| inner));
        }
        if self.is("[") {
            return self.list();
        }
        if self.eat("{") {
            return self.map(at);
        }
        self.word(at)
    }

    fn word(&mut self, at: u32) -> Parsed {
        let rooted = self.eat(".");
        if rooted && !matches!(self.peek(), Token::Ident(_)) {
            return Err(self.unexpected("IDENTIFIER"));
        }
        match self.peek().clone() {
            Token::Literal(literal) => {
                self.next += 1;
                self.node(at, Kind::Literal(literal))
            }
            Token::Int(n) => {
                self.next += 1;
                let n = int(n, false).ok_or_else(|| issue(at, "invalid int literal"))?;
                self.node(at, Kind::Literal(Literal::Int(n)))
            }
            Token::Ident(name) => {
                self.next += 1;
                if RESERVED.contains(&&*name) {
                    return Err(issue(at, format!("reserved identifier: {name}")));
                }
                if self.is("(") {
                    let open = self.at();
                    let args = self.arguments()?;
                    return macros::call(self, open, &name, args);
                }
                self.node(at, Kind::Ident(name))
            }
            _ => Err(self.unexpected(OPERAND)),
        }
    }

    fn list(&mut self) -> Parsed {
        let at = self.at();
        self.expect("[")?;
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while !self.eat("]") {
            if self.eat("?") {
                optional.push(items.len());
            }
            items.push(self.expr()?);
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        self.node(at, Kind::List { items, optional })
    }

    fn map(&mut self, at: u32) -> Parsed {
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Map(entries))
    }

    fn structure(&mut self, name: String) -> Parsed {
        let at = self.at();
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let name = self.name()?;
            let at = self.at();
            self.expect(":")?;
            fields.push(FieldInit { at, name, value: self.expr()?, optional });
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Struct { name: name.into(), fields })
    }
}

fn deepest<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> u16 {
    exprs.into_iter().map(|e| e.depth).max().unwrap_or(0)
}

fn int(magnitude: u64, negative: bool) -> Option<i64> {
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}
