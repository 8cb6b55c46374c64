//! Evaluation: a walk over the tree.
//!
//! The walk recurses no deeper than the parser lets trees be, and its frames are kept small for that: what needs room is
//! done in functions of its own.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ast::{Entry, Expr, FieldInit, Fold, Kind, Literal, op};
use crate::budget::{Budget, CallCost, bulk};
use crate::error::Error;
use crate::program::{Call, Link, Program};
use crate::value::{Evaluated, Key, List, Map, Text, Value};
use crate::{library, operators};

/// Functions that do not evaluate all of their arguments first.
#[cfg(test)]
pub(crate) fn is_special(name: &str) -> bool {
    matches!(
        name,
        op::AND
            | op::OR
            | op::CONDITIONAL
            | op::NOT_STRICTLY_FALSE
            | op::OPT_SELECT
            | op::MAP_INSERT
            | "or"
            | "orValue"
    )
}

pub(crate) fn evaluate<'a>(program: &'a Program, vars: &[Option<Value<'a>>], budget: &mut Budget) -> Evaluated<'a> {
    Evaluation { program, vars, locals: Vec::new(), budget }.eval(&program.expr)
}

struct Evaluation<'a, 'b> {
    program: &'a Program,
    vars: &'b [Option<Value<'a>>],
    /// Variables of macros; an accumulator may hold an error, which a later `&&` or `||` absorbs.
    locals: Vec<Evaluated<'a>>,
    budget: &'b mut Budget,
}

const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const STRUCT_COST: u64 = 40;

impl<'a> Evaluation<'a, '_> {
    fn eval(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        match &expr.kind {
            Kind::Literal(literal) => Ok(constant(literal)),
            Kind::Ident(name) => self.name(expr, name),
            Kind::Select { operand, field, test } => match self.link(expr) {
                Link::Type(ty) => Ok(Value::Type(Rc::new(ty.clone()))),
                // A variable whose name has a dot in it.
                Link::Var(_) => self.name(expr, field),
                _ => self.select(operand, field, *test),
            },
            Kind::Call { target, args, .. } => match self.link(expr) {
                Link::Call(call) => self.call(call, target.as_deref(), args),
                _ => Err(Error::no_overload()),
            },
            Kind::List { items, optional } => self.list(items, optional),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.structure(name, fields),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn link(&self, expr: &Expr) -> &'a Link {
        static NONE: Link = Link::None;
        self.program.links.get(expr.id as usize).unwrap_or(&NONE)
    }

    #[inline(never)]
    fn name(&mut self, expr: &Expr, name: &str) -> Evaluated<'a> {
        let link = self.link(expr);
        if !matches!(link, Link::Type(_)) {
            self.budget.spend(1)?;
        }
        match link {
            Link::Local(i) => self.locals.get(*i).cloned().unwrap_or_else(|| Err(Error::no_overload())),
            Link::Var(i) => {
                let found = self.vars.get(*i).and_then(Option::as_ref).cloned();
                found.ok_or_else(|| Error::new(format!("no such attribute(s): {name}")))
            }
            Link::Type(ty) => Ok(Value::Type(Rc::new(ty.clone()))),
            _ => Err(Error::no_overload()),
        }
    }

    fn select(&mut self, operand: &'a Expr, field: &str, test: bool) -> Evaluated<'a> {
        if !is_attribute(operand) {
            self.budget.spend(1)?;
        }
        let value = self.eval(operand)?;
        if test {
            return self.present(&value, field).map(Value::Bool);
        }
        self.budget.spend(1)?;
        self.member(&value, field)
    }

    #[inline(never)]
    fn present(&mut self, value: &Value<'a>, field: &str) -> Result<bool, Error> {
        let found = match value {
            Value::Optional(Some(inner)) => return self.present(&inner.clone(), field),
            Value::Map(map) => map.field(field).transpose()?,
            Value::Struct(object) => object.1.get(field).cloned(),
            Value::Lazy(object) => object.get(field, self.budget).transpose()?,
            _ => None,
        };
        Ok(found.is_some())
    }

    /// The field of a value; of an optional one, an optional field.
    #[inline(never)]
    fn member(&mut self, value: &Value<'a>, field: &str) -> Evaluated<'a> {
        let found = match value {
            Value::Optional(inner) => return self.optional_member(inner.as_deref(), field),
            Value::Map(map) => map.field(field),
            Value::Struct(object) => object.1.get(field).cloned().map(Ok),
            Value::Lazy(object) => object.get(field, self.budget),
            _ => None,
        };
        found.unwrap_or_else(|| Err(Error::new(format!("no such key: {field}"))))
    }

    fn optional_member(&mut self, value: Option<&Value<'a>>, field: &str) -> Evaluated<'a> {
        let value = match value {
            Some(Value::Optional(inner)) => return self.optional_member(inner.clone().as_deref(), field),
            other => other,
        };
        let found = match value {
            Some(value) if self.present(value, field)? => {
                self.budget.spend(1)?;
                Some(self.member(value, field)?)
            }
            _ => None,
        };
        Ok(found.into())
    }

    fn call(&mut self, call: &'a Call, target: Option<&'a Expr>, args: &'a [Expr]) -> Evaluated<'a> {
        let target = target.filter(|_| !call.free);
        match (target, args) {
            (None, [a, b]) => match &*call.name {
                op::AND => self.logic(a, b, false),
                op::OR => self.logic(a, b, true),
                op::OPT_SELECT => self.optional_select(a, b),
                op::INDEX | op::OPT_INDEX => self.indexed(call, a, b),
                op::ADD if self.appends(a, b) => self.append(a, b),
                op::MAP_INSERT => self.insert(a, std::slice::from_ref(b)),
                _ => self.two(call, a, b),
            },
            (None, [a]) if &*call.name == op::NOT_STRICTLY_FALSE => self.not_strictly_false(a),
            (None, [condition, yes, no]) if &*call.name == op::CONDITIONAL => match self.eval(condition)? {
                Value::Bool(true) => self.branch(yes),
                Value::Bool(false) => self.branch(no),
                _ => Err(Error::no_overload()),
            },
            (None, [accu, rest @ ..]) if &*call.name == op::MAP_INSERT => self.insert(accu, rest),
            (Some(a), [b]) => match &*call.name {
                "or" | "orValue" => self.alternative(a, b, &call.name),
                _ => self.two(call, a, b),
            },
            (None, [a]) | (Some(a), []) => self.one(call, a),
            _ => self.many(call, target, args),
        }
    }

    fn indexed(&mut self, call: &'a Call, container: &'a Expr, key: &'a Expr) -> Evaluated<'a> {
        let value = self.two(call, container, key);
        match (is_attribute(container), is_attribute(key)) {
            (false, false) => self.budget.spend(1)?,
            (true, true) => self.budget.refund(1),
            _ => {}
        }
        value
    }

    /// A branch of a condition; looking up a name there is free.
    fn branch(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        let value = self.eval(expr);
        if is_attribute(expr) {
            self.budget.refund(1);
        }
        value
    }

    fn one(&mut self, call: &'a Call, a: &'a Expr) -> Evaluated<'a> {
        let args = [self.eval(a)?];
        let result = self.apply(call, &args);
        if is_conversion(&call.name) && is_constant(a) {
            self.budget.refund(call.cost.price(&args, None));
        }
        result
    }

    fn two(&mut self, call: &'a Call, a: &'a Expr, b: &'a Expr) -> Evaluated<'a> {
        // Both are evaluated, and paid for, even if the first has failed.
        match (self.eval(a), self.eval(b)) {
            (Ok(value), Ok(set)) if &*call.name == op::IN && is_constant(b) => operators::within(&[value, set]),
            (Ok(a), Ok(b)) => self.apply(call, &[a, b]),
            (Err(Error::TooCostly), _) | (_, Err(Error::TooCostly)) => Err(Error::TooCostly),
            (a, b) => {
                let failed = [&a, &b].map(|value| value.as_ref().ok().cloned().unwrap_or(Value::Null));
                self.budget.spend(call.cost.price(&failed, None))?;
                a.and(b)
            }
        }
    }

    fn many(&mut self, call: &'a Call, target: Option<&'a Expr>, args: &'a [Expr]) -> Evaluated<'a> {
        let args = target.into_iter().chain(args).map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
        self.apply(call, &args)
    }

    #[inline(never)]
    fn apply(&mut self, call: &'a Call, args: &[Value<'a>]) -> Evaluated<'a> {
        let by_result = matches!(call.cost, CallCost::TraverseResult | CallCost::ListOfResult);
        if !by_result {
            self.budget.spend(call.cost.price(args, None))?;
        }
        self.budget.spend(bulk(args))?;
        let result = match (&call.pattern, call.function) {
            (Some(pattern), _) => library::regex::with(&call.name, pattern, args),
            (None, Some(function)) => function(args),
            (None, None) => Err(Error::no_overload()),
        }?;
        if by_result {
            self.budget.spend(call.cost.price(args, Some(&result)))?;
        }
        self.budget.spend(bulk(std::slice::from_ref(&result)))?;
        Ok(result)
    }

    /// `&&` (absorbed by false) and `||` (absorbed by true): an error on one side does not matter if the other decides.
    fn logic(&mut self, a: &'a Expr, b: &'a Expr, decisive: bool) -> Evaluated<'a> {
        let left = self.eval(a);
        if decides(&left, decisive) {
            return left;
        }
        let right = self.eval(b);
        if decides(&right, decisive) {
            return right;
        }
        match (left, right) {
            (Ok(Value::Bool(_)), Ok(Value::Bool(b))) => Ok(Value::Bool(b)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(Error::no_overload()),
        }
    }

    fn not_strictly_false(&mut self, a: &'a Expr) -> Evaluated<'a> {
        let value = match self.eval(a) {
            Err(Error::TooCostly) => return Err(Error::TooCostly),
            value => value,
        };
        self.budget.spend(1)?;
        Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false)))))
    }

    /// `a.or(b)`, `a.orValue(b)`.
    fn alternative(&mut self, a: &'a Expr, b: &'a Expr, name: &str) -> Evaluated<'a> {
        match self.eval(a)? {
            Value::Optional(None) => self.eval(b),
            Value::Optional(Some(value)) if name == "orValue" => Ok(value.as_ref().clone()),
            other => Ok(other),
        }
    }

    fn optional_select(&mut self, operand: &'a Expr, field: &'a Expr) -> Evaluated<'a> {
        let value = self.eval(operand)?;
        let Kind::Literal(Literal::String(field)) = &field.kind else { return Err(Error::no_overload()) };
        self.optional_member(Some(&value), field)
    }

    /// Whether a sum adds one item to the accumulator of a macro, which needs no copy of it.
    fn appends(&self, a: &Expr, b: &Expr) -> bool {
        let one = matches!(&b.kind, Kind::List { items, optional } if items.len() == 1 && optional.is_empty());
        one && a.as_ident() == Some(crate::ast::ACCU)
    }

    #[inline(never)]
    fn append(&mut self, accu: &'a Expr, item: &'a Expr) -> Evaluated<'a> {
        let (Link::Local(slot), Kind::List { items, .. }) = (self.link(accu), &item.kind) else {
            return Err(Error::no_overload());
        };
        // The accumulator, the list, their sum.
        self.budget.spend(1 + LIST_COST + 1)?;
        let item = self.eval(&items[0])?;
        let Some(held) = self.locals.get_mut(*slot) else { return Err(Error::no_overload()) };
        let mut list = match std::mem::replace(held, Ok(Value::Null))? {
            Value::List(List::Owned(list)) => list,
            Value::List(other) => Rc::new(other.to_vec()?),
            _ => return Err(Error::no_overload()),
        };
        Rc::make_mut(&mut list).push(item);
        Ok(Value::List(List::Owned(list)))
    }

    /// Inserts a key with its value, or all of a map, into the accumulator of a macro.
    #[inline(never)]
    fn insert(&mut self, accu: &'a Expr, rest: &'a [Expr]) -> Evaluated<'a> {
        let Link::Local(slot) = self.link(accu) else { return Err(Error::no_overload()) };
        self.budget.spend(2)?;
        let entries = match rest {
            [map] => match self.eval(map)? {
                Value::Map(map) => map.entries(),
                _ => return Err(Error::no_overload()),
            },
            [key, value] => vec![(self.eval(key)?, self.eval(value))],
            _ => return Err(Error::no_overload()),
        };
        let Some(held) = self.locals.get_mut(*slot) else { return Err(Error::no_overload()) };
        let Value::Map(Map::Owned(mut map)) = std::mem::replace(held, Ok(Value::Null))? else {
            return Err(Error::no_overload());
        };
        for (key, value) in entries {
            insert_new(Rc::make_mut(&mut map), key, value?)?;
        }
        Ok(Value::Map(Map::Owned(map)))
    }

    fn list(&mut self, items: &'a [Expr], optional: &[usize]) -> Evaluated<'a> {
        self.budget.spend(if items.iter().all(is_constant) { 0 } else { LIST_COST })?;
        let mut list = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let value = self.eval(item)?;
            match value {
                Value::Optional(value) if optional.contains(&i) => list.extend(value.map(|v| v.as_ref().clone())),
                other if optional.contains(&i) => {
                    let shown = other.shown();
                    return Err(Error::new(format!(
                        "cannot initialize optional list element from non-optional value {shown}"
                    )));
                }
                value => list.push(value),
            }
        }
        Ok(list.into())
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [Entry]) -> Evaluated<'a> {
        self.budget.spend(if entries.iter().all(|e| is_constant(&e.key) && is_constant(&e.value)) {
            0
        } else {
            MAP_COST
        })?;
        let mut map = BTreeMap::new();
        for Entry { key, value, optional } in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            if let Some(value) = given(value, *optional, || key.shown())? {
                insert_new(&mut map, key, value)?;
            }
        }
        Ok(Value::Map(Map::Owned(Rc::new(map))))
    }

    #[inline(never)]
    fn structure(&mut self, name: &'a str, fields: &'a [FieldInit]) -> Evaluated<'a> {
        self.budget.spend(STRUCT_COST)?;
        let mut object = BTreeMap::new();
        for FieldInit { name, value, optional, .. } in fields {
            let value = self.eval(value)?;
            if let Some(value) = given(value, *optional, || name.to_string())? {
                object.insert(&**name, value);
            }
        }
        Ok(Value::Struct(Rc::new((name, object))))
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        let depth = self.locals.len();
        self.locals.push(init);
        let looped = if fold.is_binding() { Ok(()) } else { self.rounds(fold, range, depth) };
        self.locals.truncate(depth + 1);
        let result = looped.and_then(|()| self.eval(&fold.result));
        self.locals.truncate(depth);
        result
    }

    fn rounds(&mut self, fold: &'a Fold, range: Value<'a>, accu: usize) -> Result<(), Error> {
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let first = fold.second.is_some().then(|| Value::Int(i as i64));
                    if !self.round(fold, accu, first.map(Ok), list.get(i))? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.entries() {
                    let more = match fold.second {
                        Some(_) => self.round(fold, accu, Some(Ok(key)), value)?,
                        None => self.round(fold, accu, None, Ok(key))?,
                    };
                    if !more {
                        break;
                    }
                }
            }
            Value::Optional(Some(inner)) => return self.rounds(fold, inner.as_ref().clone(), accu),
            _ => return Err(Error::no_overload()),
        }
        Ok(())
    }

    /// One round; false ends the loop.
    fn round(
        &mut self,
        fold: &'a Fold,
        accu: usize,
        first: Option<Evaluated<'a>>,
        last: Evaluated<'a>,
    ) -> Result<bool, Error> {
        // Nothing is free: a loop that does nothing still takes its time.
        self.locals.truncate(accu + 1);
        self.locals.extend(first);
        self.locals.push(last);
        let endless = matches!(fold.condition.kind, Kind::Literal(Literal::Bool(true)));
        if !endless && !matches!(self.eval(&fold.condition)?, Value::Bool(true)) {
            return Ok(false);
        }
        match self.eval(&fold.step) {
            Err(error) if endless || error == Error::TooCostly => Err(error),
            stepped => {
                self.locals[accu] = stepped;
                Ok(true)
            }
        }
    }
}

/// What cel-go calls an attribute: a name and what is selected from it, or a condition over such.
fn is_attribute(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Ident(_) => true,
        Kind::Select { operand, test, .. } => !test && is_attribute(operand),
        Kind::Call { name, args, .. } => match &**name {
            op::INDEX | op::OPT_INDEX | op::OPT_SELECT => args.first().is_some_and(is_attribute),
            op::CONDITIONAL => true,
            _ => false,
        },
        _ => false,
    }
}

/// What cel-go evaluates before it runs, and charges nothing for.
fn is_constant(expr: &Expr) -> bool {
    match &expr.kind {
        Kind::Literal(_) => true,
        Kind::List { items, optional } => optional.is_empty() && items.iter().all(is_constant),
        Kind::Map(entries) => entries.iter().all(|e| !e.optional && is_constant(&e.key) && is_constant(&e.value)),
        Kind::Call { name, target: None, args } => is_conversion(name) && args.iter().all(is_constant),
        _ => false,
    }
}

fn is_conversion(name: &str) -> bool {
    matches!(name, "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "uint")
}

fn decides(value: &Evaluated<'_>, decisive: bool) -> bool {
    matches!(value, Ok(Value::Bool(b)) if *b == decisive) || matches!(value, Err(Error::TooCostly))
}

/// The value of an element; nothing, if the element is optional and has none.
fn given<'a>(value: Value<'a>, optional: bool, name: impl Fn() -> String) -> Result<Option<Value<'a>>, Error> {
    match value {
        Value::Optional(inner) if optional => Ok(inner.map(|value| value.as_ref().clone())),
        other if optional => {
            let words =
                format!("cannot initialize optional entry '{}' from non-optional value {}", name(), other.shown());
            Err(Error::new(words))
        }
        value => Ok(Some(value)),
    }
}

fn insert_new<'a>(
    map: &mut BTreeMap<Key<'a>, (Value<'a>, Value<'a>)>,
    key: Value<'a>,
    value: Value<'a>,
) -> Result<(), Error> {
    let id = Key::of(&key).ok_or_else(|| Error::new(format!("unsupported key type: {}", key.type_of().name())))?;
    if map.contains_key(&id) {
        return Err(Error::new(format!("insert failed: key {} already exists", key.shown())));
    }
    map.insert(id, (key, value));
    Ok(())
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(n) => Value::Double(*n),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_ref().into()),
    }
}

/// `a[b]`, also of an optional.
pub(crate) fn index<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Optional(_), _] => operators::optional_index(args),
        [container, key] => match operators::element(container, key)? {
            Some(found) => Ok(found),
            None if matches!(container, Value::List(_)) => {
                Err(Error::new(format!("index out of bounds: {}", key.shown())))
            }
            None => Err(Error::new(format!("no such key: {}", key.shown()))),
        },
        _ => Err(Error::no_overload()),
    }
}
