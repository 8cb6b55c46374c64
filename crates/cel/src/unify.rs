//! Which type fits which, with the variables of the checker bound on the way.

use std::sync::Arc;

use crate::types::Type;

/// What the checker's variables stand for.
#[derive(Clone, Default)]
pub(crate) struct Bindings(Vec<Option<Type>>);

impl Bindings {
    pub(crate) fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Param(self.0.len() as u32 - 1)
    }

    fn find(&self, ty: &Type) -> Option<&Type> {
        match ty {
            Type::Param(n) => self.0.get(*n as usize)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, param: &Type, ty: Type) {
        if let Type::Param(n) = param
            && let Some(slot) = self.0.get_mut(*n as usize)
        {
            *slot = Some(ty);
        }
    }

    /// Whether each type fits its counterpart; only then are variables bound.
    pub(crate) fn all_fit(&mut self, one: &[Type], other: &[Type]) -> bool {
        let mut tried = self.clone();
        let fit = one.len() == other.len() && one.iter().zip(other).all(|(a, b)| tried.assignable(a, b));
        if fit {
            *self = tried;
        }
        fit
    }

    pub(crate) fn fits(&mut self, one: &Type, other: &Type) -> bool {
        self.all_fit(std::slice::from_ref(one), std::slice::from_ref(other))
    }

    fn assignable(&mut self, one: &Type, other: &Type) -> bool {
        if matches!(other, Type::Param(_)) {
            match self.substitution(one, other) {
                (true, _) => return true,
                (false, true) => return false,
                _ => {}
            }
        }
        if matches!(one, Type::Param(_)) {
            return self.substitution(other, one).0;
        }
        match (one, other) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, ty) | (ty, Type::Null) => {
                let nullable = matches!(ty, Type::Optional(_) | Type::Struct(_) | Type::Library(_));
                nullable || matches!(ty, Type::Null | Type::Timestamp | Type::Duration)
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Map(a), Type::Map(b)) => self.assignable(&a.0, &b.0) && self.assignable(&a.1, &b.1),
            (a, b) => a == b,
        }
    }

    /// Whether `param` may stand for `ty`, and whether it stands for something already.
    fn substitution(&mut self, ty: &Type, param: &Type) -> (bool, bool) {
        if ty == param {
            return (true, true);
        }
        if let Some(bound) = self.find(param).cloned() {
            if *ty == bound {
                return (true, true);
            }
            if !self.assignable(ty, &bound) {
                return (false, true);
            }
            let general = most_general(ty, &bound).clone();
            if self.occurs_not(param, &general) {
                self.bind(param, general);
            }
            return (true, true);
        }
        let free = self.occurs_not(param, ty);
        if free {
            self.bind(param, ty.clone());
        }
        (free, false)
    }

    fn occurs_not(&self, param: &Type, within: &Type) -> bool {
        if param == within {
            return false;
        }
        match within {
            Type::Param(_) => self.find(within).is_none_or(|bound| self.occurs_not(param, bound)),
            Type::List(inner) | Type::Optional(inner) | Type::Type(Some(inner)) => self.occurs_not(param, inner),
            Type::Map(entry) => self.occurs_not(param, &entry.0) && self.occurs_not(param, &entry.1),
            _ => true,
        }
    }

    /// The type with its variables replaced; free ones become `dyn` where `free_is_dyn`.
    pub(crate) fn resolve(&self, ty: &Type, free_is_dyn: bool) -> Type {
        if let Some(bound) = self.find(ty) {
            return self.resolve(bound, free_is_dyn);
        }
        let inner = |ty: &Type| Arc::new(self.resolve(ty, free_is_dyn));
        match ty {
            Type::Param(_) if free_is_dyn => Type::Dyn,
            Type::List(item) => Type::List(inner(item)),
            Type::Optional(value) => Type::Optional(inner(value)),
            Type::Type(Some(of)) => Type::Type(Some(inner(of))),
            Type::Map(e) => Type::map(self.resolve(&e.0, free_is_dyn), self.resolve(&e.1, free_is_dyn)),
            other => other.clone(),
        }
    }
}

/// The more general of two types that fit one another.
pub(crate) fn most_general<'a>(one: &'a Type, other: &'a Type) -> &'a Type {
    if less_specific(one, other) { one } else { other }
}

fn less_specific(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        (a, b) => a == b,
    }
}
