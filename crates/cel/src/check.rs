//! The type checker. Beside the tree it leaves the type of each node and what each name and call refers to.

use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal, op};
use crate::env::Env;
use crate::error::Issue;
use crate::functions::{Overload, overloads};
use crate::types::Type;
use crate::unify::{Bindings, most_general};

/// What a node refers to.
#[derive(Clone, Debug, Default)]
pub(crate) enum Ref {
    /// It speaks for itself.
    #[default]
    None,
    /// A variable of the environment.
    Var(usize),
    /// A variable of a macro, by its place on the stack.
    Local(usize),
    /// A type.
    Type(Type),
    /// A function. `free`: what looks like its receiver is part of its name.
    Call { name: Box<str>, overloads: Vec<&'static str>, free: bool },
}

/// What checking an expression yields.
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    pub(crate) refs: Vec<Ref>,
}

pub(crate) fn check(expr: &Expr, nodes: u32, env: &Env) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        types: vec![Type::Error; nodes as usize],
        refs: vec![Ref::None; nodes as usize],
        bindings: Bindings::default(),
        locals: Vec::new(),
        issues: Vec::new(),
    };
    checker.check(expr);
    if checker.issues.is_empty() {
        let Checker { types, refs, bindings, .. } = checker;
        let types = types.iter().map(|ty| bindings.resolve(ty, true)).collect();
        Ok(Checked { types, refs })
    } else {
        Err(checker.issues)
    }
}

struct Checker<'a> {
    env: &'a Env,
    types: Vec<Type>,
    refs: Vec<Ref>,
    bindings: Bindings,
    locals: Vec<(&'a str, Type)>,
    issues: Vec<Issue>,
}

impl<'a> Checker<'a> {
    fn fail(&mut self, at: u32, message: String) {
        self.issues.push(Issue { at, message });
    }

    fn undeclared(&mut self, at: u32, name: &str) -> Type {
        self.fail(at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn mismatch(&mut self, at: u32, expected: &Type, found: &Type) {
        self.fail(at, format!("expected type '{expected}' but found '{found}'"));
    }

    fn ty(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone()
    }

    fn check(&mut self, expr: &'a Expr) {
        let ty = match &expr.kind {
            Kind::Literal(literal) => match literal {
                Literal::Null => Type::Null,
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Uint(_) => Type::Uint,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Bytes(_) => Type::Bytes,
            },
            Kind::Ident(name) => match self.lookup(name) {
                Some((ty, found)) => {
                    self.refs[expr.id as usize] = found;
                    ty
                }
                None => self.undeclared(expr.at, name),
            },
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { name, target, args } => self.call(expr, name, target.as_deref(), args),
            Kind::List { items, optional } => {
                let mut item_type: Option<Type> = None;
                for (i, item) in items.iter().enumerate() {
                    self.check(item);
                    let ty = self.unwrapped_if(item, optional.contains(&i));
                    item_type = Some(self.joined(item_type, ty));
                }
                Type::list(item_type.unwrap_or_else(|| self.bindings.fresh()))
            }
            Kind::Map(entries) => {
                let mut types: Option<(Type, Type)> = None;
                for entry in entries {
                    self.check(&entry.key);
                    self.check(&entry.value);
                    let value = self.unwrapped_if(&entry.value, entry.optional);
                    let (keys, values) = types.map_or((None, None), |(k, v)| (Some(k), Some(v)));
                    let key = self.ty(&entry.key);
                    types = Some((self.joined(keys, key), self.joined(values, value)));
                }
                let (key, value) = types.unwrap_or_else(|| (self.bindings.fresh(), self.bindings.fresh()));
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => {
                let ty = self.env.structure(name);
                if ty.is_none() {
                    self.undeclared(expr.at, name);
                }
                for field in fields {
                    self.check(&field.value);
                    let value = self.unwrapped_if(&field.value, field.optional);
                    let Some(Type::Struct(object)) = &ty else { continue };
                    let declared = object.fields.get(&*field.name).cloned().or(object.open.then_some(Type::Dyn));
                    match declared {
                        None => self.fail(field.at, format!("undefined field '{}'", field.name)),
                        Some(declared) if !self.bindings.fits(&declared, &value) => {
                            let name = &field.name;
                            let words = format!(
                                "expected type of field '{name}' is '{declared}' but provided type is '{value}'"
                            );
                            self.fail(field.at, words);
                        }
                        Some(_) => {}
                    }
                }
                ty.unwrap_or(Type::Error)
            }
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[expr.id as usize] = ty;
    }

    fn lookup(&self, name: &str) -> Option<(Type, Ref)> {
        if let Some(i) = self.locals.iter().rposition(|(local, _)| *local == name) {
            return Some((self.locals[i].1.clone(), Ref::Local(i)));
        }
        if let Some((i, ty)) = self.env.variable(name) {
            return Some((ty.clone(), Ref::Var(i)));
        }
        let ty = Type::named(name).or_else(|| self.env.structure(name))?;
        Some((Type::Type(Some(Arc::new(ty.clone()))), Ref::Type(ty)))
    }

    /// The type of an element; of what is within it, if it is marked optional.
    fn unwrapped_if(&mut self, element: &Expr, optional: bool) -> Type {
        let ty = self.ty(element);
        if !optional {
            return ty;
        }
        let (inner, is_optional) = ty.unwrapped();
        if !is_optional && !inner.is_dyn() {
            self.mismatch(element.at, &Type::optional(inner.clone()), &inner);
        }
        inner
    }

    fn joined(&mut self, before: Option<Type>, ty: Type) -> Type {
        match before {
            None => ty,
            Some(before) if self.bindings.fits(&before, &ty) => most_general(&before, &ty).clone(),
            Some(_) => Type::Dyn,
        }
    }

    fn select(&mut self, expr: &'a Expr, operand: &'a Expr, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = expr.qualified_name()
            && !self.is_local(&name)
            && let Some((i, ty)) = self.env.variable(&name)
        {
            self.refs[expr.id as usize] = Ref::Var(i);
            return ty.clone();
        }
        if !test
            && let Some(name) = expr.qualified_name()
            && !self.is_local(&name)
            && let Some(ty) = Type::named(&name).or_else(|| self.env.structure(&name))
        {
            self.refs[expr.id as usize] = Ref::Type(ty.clone());
            return Type::Type(Some(Arc::new(ty)));
        }
        let ty = self.field(expr, operand, field, false);
        if test { Type::Bool } else { self.bindings.resolve(&ty, false) }
    }

    fn is_local(&self, qualified: &str) -> bool {
        let first = qualified.split('.').next().unwrap_or_default();
        self.locals.iter().any(|(name, _)| *name == first)
    }

    fn field(&mut self, expr: &Expr, operand: &'a Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let operand_type = self.bindings.resolve(&self.ty(operand), false);
        let (target, was_optional) = operand_type.unwrapped();
        let result = match &target {
            Type::Map(entry) => entry.1.clone(),
            Type::Struct(object) => match object.fields.get(field) {
                Some(ty) => ty.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.fail(expr.at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Library(_) => {
                self.fail(expr.at, format!("undefined field '{field}'"));
                Type::Error
            }
            Type::Param(_) => {
                self.bindings.fits(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.fail(expr.at, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(result) } else { result }
    }

    fn call(&mut self, expr: &'a Expr, name: &str, target: Option<&'a Expr>, args: &'a [Expr]) -> Type {
        if name == op::OPT_SELECT
            && let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] = args
        {
            let ty = self.field(expr, operand, field, true);
            self.set_call(expr, name, vec!["select_optional_field"], false);
            return self.bindings.resolve(&ty, false);
        }
        for arg in args {
            self.check(arg);
        }
        let Some(target) = target else {
            return match overloads(name, self.env.patches) {
                Some(found) => self.resolve(expr, name, found, None, args, false),
                None => self.undeclared(expr.at, name),
            };
        };
        if let Some(prefix) = target.qualified_name() {
            let qualified = format!("{prefix}.{name}");
            if let Some(found) = overloads(&qualified, self.env.patches) {
                return self.resolve(expr, &qualified, found, None, args, true);
            }
        }
        self.check(target);
        match overloads(name, self.env.patches) {
            Some(found) => self.resolve(expr, name, found, Some(target), args, false),
            None => self.undeclared(expr.at, name),
        }
    }

    fn set_call(&mut self, expr: &Expr, name: &str, overloads: Vec<&'static str>, free: bool) {
        self.refs[expr.id as usize] = Ref::Call { name: name.into(), overloads, free };
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        name: &str,
        found: &'static [Overload],
        target: Option<&Expr>,
        args: &[Expr],
        free: bool,
    ) -> Type {
        let given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.ty(arg)).collect();
        let (mut result, mut chosen): (Option<Type>, _) = (None, Vec::new());
        for overload in found.iter().filter(|overload| overload.member == target.is_some()) {
            if matches!(name, op::AND | op::OR) {
                return self.logical(expr, name, overload.id, &given, args);
            }
            if overload.args.len() != given.len() {
                continue;
            }
            let fresh: Vec<Type> = (0..overload.params).map(|_| self.bindings.fresh()).collect();
            let wanted: Vec<Type> = overload.args.iter().map(|ty| instantiate(ty, &fresh)).collect();
            if !self.bindings.all_fit(&given, &wanted) {
                continue;
            }
            chosen.push(overload.id);
            let ty = self.bindings.resolve(&instantiate(&overload.result, &fresh), false);
            result = Some(match result {
                Some(before) if !before.is_dyn() && before != ty => Type::Dyn,
                Some(before) => before,
                None => ty,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = given.iter().map(|ty| self.bindings.resolve(ty, true).to_string()).collect();
            let (receiver, shown) = match target {
                Some(_) => (format!("{}.", shown[0]), &shown[1..]),
                None => (String::new(), &shown[..]),
            };
            let applied = format!("{receiver}({})", shown.join(", "));
            self.fail(expr.at, format!("found no matching overload for '{name}' applied to '{applied}'"));
            return Type::Error;
        };
        self.set_call(expr, name, chosen, free);
        result
    }

    fn logical(&mut self, expr: &Expr, name: &str, id: &'static str, given: &[Type], args: &[Expr]) -> Type {
        let mut faulty = false;
        for (ty, arg) in given.iter().zip(args) {
            if !self.bindings.fits(ty, &Type::Bool) {
                let shown = self.bindings.resolve(ty, true);
                self.mismatch(arg.at, &Type::Bool, &shown);
                faulty = true;
            }
        }
        self.set_call(expr, name, vec![id], false);
        if faulty { Type::Error } else { Type::Bool }
    }

    fn fold(&mut self, fold: &'a Fold) -> Type {
        self.check(&fold.range);
        self.check(&fold.init);
        let range = self.bindings.resolve(&self.ty(&fold.range), false);
        let accu_type = self.ty(&fold.init);
        let two = fold.second.is_some();
        let (first, second) = match &range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(entry) => entry.as_ref().clone(),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.bindings.fits(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let words = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fail(fold.range.at, words);
                (Type::Error, Type::Error)
            }
        };
        self.locals.push((&fold.accu, accu_type.clone()));
        let outside = self.locals.len();
        self.locals.push((&fold.var, first));
        if let Some(name) = &fold.second {
            self.locals.push((name, second));
        }
        self.check(&fold.condition);
        self.must_be(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.must_be(&fold.step, &accu_type);
        self.locals.truncate(outside);
        self.check(&fold.result);
        self.locals.pop();
        self.bindings.resolve(&self.ty(&fold.result), false)
    }

    fn must_be(&mut self, expr: &Expr, wanted: &Type) {
        let found = self.ty(expr);
        if !self.bindings.fits(wanted, &found) {
            self.mismatch(expr.at, wanted, &found);
        }
    }
}

/// A signature's type with its parameters replaced.
fn instantiate(ty: &Type, fresh: &[Type]) -> Type {
    let inner = |ty: &Type| Arc::new(instantiate(ty, fresh));
    match ty {
        Type::Param(n) => fresh.get(*n as usize).cloned().unwrap_or(Type::Dyn),
        Type::List(item) => Type::List(inner(item)),
        Type::Optional(value) => Type::Optional(inner(value)),
        Type::Type(Some(of)) => Type::Type(Some(inner(of))),
        Type::Map(e) => Type::map(instantiate(&e.0, fresh), instantiate(&e.1, fresh)),
        other => other.clone(),
    }
}
