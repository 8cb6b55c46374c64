//! Faults of literals that show only after the types are known: patterns, times, and lists and maps of mixed types.

use crate::ast::{Expr, Kind, Literal};
use crate::error::Issue;
use crate::types::Type;

pub(crate) fn check(expr: &Expr, types: &[Type]) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut walk = Walk { types, issues: &mut issues };
    walk.expr(expr, false);
    issues
}

struct Walk<'a> {
    types: &'a [Type],
    issues: &'a mut Vec<Issue>,
}

impl Walk<'_> {
    /// `mixed`: within a call of `format`, whose arguments may be of different types.
    fn expr(&mut self, expr: &Expr, mixed: bool) {
        match &expr.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.expr(operand, mixed),
            Kind::Call { name, target, args } => {
                self.argument(name, args);
                let mixed = mixed || name == "format";
                target.as_deref().into_iter().chain(args).for_each(|e| self.expr(e, mixed));
            }
            Kind::List { items, optional } => {
                items.iter().for_each(|e| self.expr(e, mixed));
                if !mixed {
                    self.same(items.iter().enumerate().map(|(i, e)| (e, optional.contains(&i))));
                }
            }
            Kind::Map(entries) => {
                entries.iter().flat_map(|e| [&e.key, &e.value]).for_each(|e| self.expr(e, mixed));
                if !mixed {
                    self.same(entries.iter().map(|e| (&e.key, false)));
                    self.same(entries.iter().map(|e| (&e.value, e.optional)));
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|f| self.expr(&f.value, mixed)),
            Kind::Fold(f) => {
                [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter().for_each(|e| self.expr(e, mixed));
            }
        }
    }

    fn argument(&mut self, name: &str, args: &[Expr]) {
        let Some(Expr { at, kind: Kind::Literal(literal), .. }) = args.first() else { return };
        let text = match literal {
            Literal::String(text) => Some(&**text),
            _ => None,
        };
        let fits = match (name, text) {
            ("duration", Some(text)) => crate::time::parse_duration(text).is_some(),
            ("timestamp", Some(text)) => crate::time::parse_timestamp(text).is_some(),
            ("timestamp", None) => match literal {
                Literal::Int(n) => crate::time::timestamp_of(*n).is_ok(),
                _ => true,
            },
            ("matches", Some(text)) => crate::pattern::compile(text).is_ok(),
            _ => true,
        };
        if !fits {
            self.issues.push(Issue { at: *at, message: format!("invalid {name} argument") });
        }
    }

    fn same<'e>(&mut self, elements: impl Iterator<Item = (&'e Expr, bool)>) {
        let mut first: Option<Type> = None;
        for (element, optional) in elements {
            let ty = &self.types[element.id as usize];
            let ty = if optional { ty.unwrapped().0 } else { ty.clone() };
            match &first {
                None => first = Some(ty),
                Some(first) if *first != ty => {
                    let message = format!("expected type '{first}' but found '{ty}'");
                    self.issues.push(Issue { at: element.at, message });
                    return;
                }
                Some(_) => {}
            }
        }
    }
}
