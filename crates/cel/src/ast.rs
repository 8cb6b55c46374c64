//! Expressions as parsed: macros are expanded, operators are calls with upstream's names for them.

use std::borrow::Cow;

/// A node. `id` numbers it within its expression, so that what is learnt of it lies in tables beside the tree.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: u32,
    /// Where it is in the source, in bytes.
    pub(crate) at: u32,
    /// Height of the tree below, which is bounded so that walking it cannot exhaust the stack.
    pub(crate) depth: u16,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(Box<str>),
    Select { operand: Box<Expr>, field: Box<str>, test: bool },
    Call { name: Name, target: Option<Box<Expr>>, args: Vec<Expr> },
    List { items: Vec<Expr>, optional: Vec<usize> },
    Map(Vec<Entry>),
    Struct { name: Box<str>, fields: Vec<FieldInit> },
    Fold(Box<Fold>),
}

pub(crate) type Name = Cow<'static, str>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct FieldInit {
    pub(crate) at: u32,
    pub(crate) name: Box<str>,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// A comprehension: every macro with a loop, and bindings (whose range is empty), become one.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) range: Expr,
    pub(crate) var: Box<str>,
    pub(crate) second: Option<Box<str>>,
    pub(crate) accu: Box<str>,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

/// The accumulator of macros; no source can name it.
pub(crate) const ACCU: &str = "@result";

pub(crate) mod op {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPT_INDEX: &str = "_[?_]";
    pub(crate) const OPT_SELECT: &str = "_?._";
    pub(crate) const IN: &str = "@in";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";
    pub(crate) const SORT_BY: &str = "@sortByAssociatedKeys";
}

impl Expr {
    pub(crate) fn as_ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }

    /// The expressions right below.
    pub(crate) fn children(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).collect(),
            Kind::List { items, .. } => items.iter().collect(),
            Kind::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
            Kind::Fold(f) => vec![&f.range, &f.init, &f.condition, &f.step, &f.result],
        }
    }

    /// Whether `name.field` is part of it, in any of the ways to write that.
    pub(crate) fn selects(&self, name: &str, field: &str) -> bool {
        let here = match &self.kind {
            Kind::Select { operand, field: selected, .. } => operand.as_ident() == Some(name) && **selected == *field,
            Kind::Call { name: called, args, .. } if called == op::OPT_SELECT => match &args[..] {
                [operand, Self { kind: Kind::Literal(Literal::String(selected)), .. }] => {
                    operand.as_ident() == Some(name) && **selected == *field
                }
                _ => false,
            },
            _ => false,
        };
        here || self.children().into_iter().any(|child| child.selects(name, field))
    }

    /// `a.b.c`, if the expression is no more than that.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) if !name.starts_with('@') => Some(name.trim_start_matches('.').to_owned()),
            Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }
}

impl Fold {
    /// Whether it only binds a name to a value: nothing is looped over.
    pub(crate) fn is_binding(&self) -> bool {
        matches!(&self.range.kind, Kind::List { items, .. } if items.is_empty()) && &*self.accu != ACCU
    }
}
