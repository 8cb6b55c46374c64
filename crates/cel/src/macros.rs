//! Macros: calls that the parser replaces by comprehensions and tests of presence.
//!
//! The standard ones, those with two variables, `optMap` and `optFlatMap`, and `sortBy`.

use crate::ast::{ACCU, Expr, Fold, Kind, Literal, op};
use crate::error::Issue;
use crate::parser::Parser;

type Expanded = Result<Expr, Issue>;

fn fail<T>(at: &Expr, message: &str) -> Result<T, Issue> {
    Err(Issue { at: at.at, message: message.to_owned() })
}

/// A call without a receiver: `has(a.b)` or a function.
pub(crate) fn call(p: &mut Parser<'_>, at: u32, name: &str, mut args: Vec<Expr>) -> Expanded {
    if name != "has" || args.len() != 1 {
        return p.call(at, name.to_owned(), args);
    }
    match args.remove(0) {
        Expr { kind: Kind::Select { operand, field, .. }, .. } => {
            p.node(at, Kind::Select { operand, field, test: true })
        }
        other => fail(&other, "invalid argument to has() macro"),
    }
}

/// A call with a receiver.
pub(crate) fn member_call(p: &mut Parser<'_>, at: u32, name: &str, target: Expr, args: Vec<Expr>) -> Expanded {
    match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2) => quantifier(p, at, name, target, args, 1),
        ("all" | "exists" | "exists_one" | "existsOne", 3) => quantifier(p, at, name, target, args, 2),
        ("map", 2 | 3) => collect(p, at, target, args, 1, "argument is not an identifier"),
        ("filter", 2) => {
            let [item, predicate] = pair(args)?;
            let kept = p.copy(&item)?;
            collect(p, at, target, vec![item, predicate, kept], 1, "argument is not an identifier")
        }
        ("transformList", 3 | 4) => collect(p, at, target, args, 2, SIMPLE),
        ("transformMap" | "transformMapEntry", 3 | 4) => transform_map(p, at, name, target, args),
        ("optMap" | "optFlatMap", 2) => optional_map(p, at, name, target, args),
        ("bind", 3) if p.bindings && target.as_ident() == Some("cel") => bind_macro(p, at, args),
        ("sortBy", 2) => sort_by(p, at, target, args),
        _ => p.node(at, Kind::Call { name: name.to_owned().into(), target: Some(Box::new(target)), args }),
    }
}

const SIMPLE: &str = "argument must be a simple name";

fn pair(args: Vec<Expr>) -> Result<[Expr; 2], Issue> {
    args.try_into().map_err(|_| Issue { at: 0, message: "unexpected number of arguments".to_owned() })
}

fn variable(arg: &Expr, otherwise: &str) -> Result<Box<str>, Issue> {
    match arg.as_ident() {
        None => fail(arg, otherwise),
        Some(ACCU | "__result__") => fail(arg, "iteration variable overwrites accumulator variable"),
        Some(name) => Ok(name.into()),
    }
}

/// Takes the `count` leading arguments as names of variables.
fn variables(args: &mut Vec<Expr>, count: usize, otherwise: &str) -> Result<(Box<str>, Option<Box<str>>), Issue> {
    let names: Vec<Expr> = args.drain(..count).collect();
    let first = variable(&names[0], otherwise)?;
    let second = names.get(1).map(|arg| variable(arg, otherwise)).transpose()?;
    match names.get(1) {
        Some(arg) if second.as_deref() == Some(&*first) => fail(arg, &format!("duplicate variable name: {first}")),
        _ => Ok((first, second)),
    }
}

fn accu(p: &mut Parser<'_>, at: u32) -> Expanded {
    p.node(at, Kind::Ident(ACCU.into()))
}

fn literal(p: &mut Parser<'_>, at: u32, literal: Literal) -> Expanded {
    p.node(at, Kind::Literal(literal))
}

fn empty_list(p: &mut Parser<'_>, at: u32) -> Expanded {
    p.node(at, Kind::List { items: Vec::new(), optional: Vec::new() })
}

fn quantifier(p: &mut Parser<'_>, at: u32, name: &str, range: Expr, mut args: Vec<Expr>, vars: usize) -> Expanded {
    let (var, second) = variables(&mut args, vars, SIMPLE)?;
    let predicate = args.remove(0);
    let (init, condition, step, result);
    match name {
        "all" => {
            init = literal(p, at, Literal::Bool(true))?;
            let so_far = accu(p, at)?;
            condition = p.call(at, op::NOT_STRICTLY_FALSE, vec![so_far])?;
            let so_far = accu(p, at)?;
            step = p.call(at, op::AND, vec![so_far, predicate])?;
            result = accu(p, at)?;
        }
        "exists" => {
            init = literal(p, at, Literal::Bool(false))?;
            let so_far = accu(p, at)?;
            let not = p.call(at, op::NOT, vec![so_far])?;
            condition = p.call(at, op::NOT_STRICTLY_FALSE, vec![not])?;
            let so_far = accu(p, at)?;
            step = p.call(at, op::OR, vec![so_far, predicate])?;
            result = accu(p, at)?;
        }
        _ => {
            init = literal(p, at, Literal::Int(0))?;
            condition = literal(p, at, Literal::Bool(true))?;
            let (so_far, one) = (accu(p, at)?, literal(p, at, Literal::Int(1))?);
            let more = p.call(at, op::ADD, vec![so_far, one])?;
            let same = accu(p, at)?;
            step = p.call(at, op::CONDITIONAL, vec![predicate, more, same])?;
            let (found, one) = (accu(p, at)?, literal(p, at, Literal::Int(1))?);
            result = p.call(at, op::EQUALS, vec![found, one])?;
        }
    }
    p.node(at, Kind::Fold(Box::new(Fold { range, var, second, accu: ACCU.into(), init, condition, step, result })))
}

/// `args`: variables, perhaps a filter, and what to collect into a list.
fn collect(p: &mut Parser<'_>, at: u32, range: Expr, mut args: Vec<Expr>, vars: usize, otherwise: &str) -> Expanded {
    let (var, second) = variables(&mut args, vars, otherwise)?;
    let init = empty_list(p, at)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    let item = p.node(at, Kind::List { items: args, optional: Vec::new() })?;
    let so_far = accu(p, at)?;
    let more = p.call(at, op::ADD, vec![so_far, item])?;
    gather(p, at, range, (var, second), init, filter, more)
}

fn transform_map(p: &mut Parser<'_>, at: u32, name: &str, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let (var, second) = variables(&mut args, 2, SIMPLE)?;
    let init = p.node(at, Kind::Map(Vec::new()))?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    let mut inserted = vec![accu(p, at)?];
    if name == "transformMap" {
        inserted.push(p.node(at, Kind::Ident(var.clone()))?);
    }
    inserted.append(&mut args);
    let more = p.call(at, op::MAP_INSERT, inserted)?;
    gather(p, at, range, (var, second), init, filter, more)
}

fn gather(
    p: &mut Parser<'_>,
    at: u32,
    range: Expr,
    (var, second): (Box<str>, Option<Box<str>>),
    init: Expr,
    filter: Option<Expr>,
    more: Expr,
) -> Expanded {
    let condition = literal(p, at, Literal::Bool(true))?;
    let step = match filter {
        Some(filter) => {
            let same = accu(p, at)?;
            p.call(at, op::CONDITIONAL, vec![filter, more, same])?
        }
        None => more,
    };
    let result = accu(p, at)?;
    p.node(at, Kind::Fold(Box::new(Fold { range, var, second, accu: ACCU.into(), init, condition, step, result })))
}

/// Binds `name` to `value` within `body`.
fn bind(p: &mut Parser<'_>, at: u32, name: Box<str>, value: Expr, body: Expr) -> Expanded {
    let range = empty_list(p, at)?;
    let condition = literal(p, at, Literal::Bool(false))?;
    let step = p.node(at, Kind::Ident(name.clone()))?;
    let (var, second) = ("#unused".into(), None);
    p.node(
        at,
        Kind::Fold(Box::new(Fold { range, var, second, accu: name, init: value, condition, step, result: body })),
    )
}

fn bind_macro(p: &mut Parser<'_>, at: u32, args: Vec<Expr>) -> Expanded {
    let args: Result<[Expr; 3], _> = args.try_into();
    let Ok([name, value, body]) = args else { return p.call(at, "bind", Vec::new()) };
    match name.as_ident() {
        Some(ident) => bind(p, at, ident.into(), value, body),
        None => fail(&name, "cel.bind() variable names must be simple identifiers"),
    }
}

fn optional_map(p: &mut Parser<'_>, at: u32, macro_name: &str, target: Expr, args: Vec<Expr>) -> Expanded {
    let [var, body] = pair(args)?;
    let Some(name) = var.as_ident() else {
        return fail(&var, &format!("{macro_name}() variable name must be a simple identifier"));
    };
    let again = p.copy(&target)?;
    let value = member(p, at, "value", again)?;
    let mut mapped = bind(p, at, name.into(), value, body)?;
    if macro_name == "optMap" {
        mapped = p.call(at, "optional.of", vec![mapped])?;
    }
    let none = p.call(at, "optional.none", Vec::new())?;
    let present = member(p, at, "hasValue", target)?;
    p.call(at, op::CONDITIONAL, vec![present, mapped, none])
}

fn member(p: &mut Parser<'_>, at: u32, name: &'static str, target: Expr) -> Expanded {
    p.node(at, Kind::Call { name: name.into(), target: Some(Box::new(target)), args: Vec::new() })
}

fn sort_by(p: &mut Parser<'_>, at: u32, target: Expr, args: Vec<Expr>) -> Expanded {
    const INPUT: &str = "@__sortBy_input__";
    if !matches!(
        target.kind,
        Kind::List { .. } | Kind::Select { .. } | Kind::Ident(_) | Kind::Fold(_) | Kind::Call { .. }
    ) {
        let words = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return fail(&target, words);
    }
    let input = p.node(at, Kind::Ident(INPUT.into()))?;
    let keys = collect(p, at, input, args, 1, "argument is not an identifier")?;
    let input = p.node(at, Kind::Ident(INPUT.into()))?;
    let name = op::SORT_BY.into();
    let sorted = p.node(at, Kind::Call { name, target: Some(Box::new(input)), args: vec![keys] })?;
    bind(p, at, INPUT.into(), target, sorted)
}
