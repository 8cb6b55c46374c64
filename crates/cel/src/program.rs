//! A compiled expression: the tree, and what each name and call in it leads to.

use std::collections::BTreeSet;

use regex::Regex;

use crate::ast::{Expr, Kind, Literal};
use crate::budget::CallCost;
use crate::check::Ref;
use crate::library::{self, Function};
use crate::types::Type;
use crate::value::Value;
use crate::{Budget, Error, eval};

/// An expression that was checked and can be evaluated, by many at once.
#[derive(Debug)]
pub struct Program {
    pub(crate) expr: Expr,
    pub(crate) links: Vec<Link>,
    pub(crate) used: BTreeSet<usize>,
    pub(crate) output: Type,
    pub(crate) cost: u64,
}

/// A reference, resolved.
#[derive(Debug)]
pub(crate) enum Link {
    None,
    Var(usize),
    Local(usize),
    Type(Type),
    Call(Box<Call>),
}

pub(crate) struct Call {
    pub(crate) name: Box<str>,
    pub(crate) function: Option<Function>,
    pub(crate) cost: CallCost,
    /// What looks like a receiver is part of the name.
    pub(crate) free: bool,
    /// The pattern, where it is written out.
    pub(crate) pattern: Option<Regex>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) fn link(expr: &Expr, refs: Vec<Ref>) -> Result<Vec<Link>, String> {
    let resolve = |reference| match reference {
        Ref::None => Link::None,
        Ref::Var(i) => Link::Var(i),
        Ref::Local(i) => Link::Local(i),
        Ref::Type(ty) => Link::Type(ty),
        Ref::Call { name, overloads, free } => {
            let cost = CallCost::of(&name, &overloads);
            // An empty list has the sum of its type.
            let function = match overloads[..] {
                [sum] if &*name == "sum" => {
                    let of = sum.strip_prefix("list_").and_then(|sum| sum.strip_suffix("_sum")).unwrap_or_default();
                    library::function(&format!("sum_{of}"))
                }
                _ => library::function(&name),
            };
            Link::Call(Box::new(Call { name, function, cost, free, pattern: None }))
        }
    };
    let mut links: Vec<Link> = refs.into_iter().map(resolve).collect();
    let mut failed = None;
    patterns(expr, &mut links, &mut failed);
    failed.map_or(Ok(links), Err)
}

/// Compiles the patterns that are written out.
fn patterns(expr: &Expr, links: &mut [Link], failed: &mut Option<String>) {
    if let Kind::Call { name, target, args } = &expr.kind {
        let pattern = match (&**name, target, &args[..]) {
            ("matches" | "find" | "findAll", Some(_), [pattern, ..]) | ("matches", None, [_, pattern]) => Some(pattern),
            _ => None,
        };
        if let Some(Kind::Literal(Literal::String(text))) = pattern.map(|p| &p.kind)
            && let Some(Link::Call(call)) = links.get_mut(expr.id as usize)
        {
            match crate::pattern::compile(text) {
                Ok(pattern) => call.pattern = Some(pattern),
                Err(reason) => *failed = Some(reason),
            }
        }
    }
    expr.children().into_iter().for_each(|child| patterns(child, links, failed));
}

impl Program {
    /// What it evaluates to.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// The most one evaluation may cost, estimated.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Whether the expression names the variable with this number.
    pub fn uses(&self, variable: usize) -> bool {
        self.used.contains(&variable)
    }

    /// Whether `variable.field` is part of the expression.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.expr.selects(variable, field)
    }

    /// Evaluates with the values of the environment's variables, in its order; what is missing fails only if it is needed.
    /// `budget` is charged for what was done, also where that failed.
    pub fn evaluate<'a>(&'a self, variables: &[Option<Value<'a>>], budget: &mut Budget) -> Result<Value<'a>, Error> {
        eval::evaluate(self, variables, budget)
    }
}
