//! What an expression may refer to, and compiling it.

use std::sync::Arc;

use crate::check::{Ref, check};
use crate::cost::{self, Range};
use crate::error::Issues;
use crate::program::Program;
use crate::schema::Decl;
use crate::types::{Struct, Type};
use crate::{literals, parser, program};

/// The variables of an expression. The functions and types are Kubernetes 1.36's, all of them.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    pub(crate) sizes: Option<Arc<Decl>>,
    pub(crate) patches: bool,
    bindings: bool,
}

impl Env {
    /// No variables yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a variable; variables are numbered as they are added.
    #[must_use]
    pub fn with(mut self, name: &str, ty: Type) -> Self {
        self.variables.push((name.to_owned(), ty));
        self
    }

    /// With the bounds of the data that all variables hold, by which costs are estimated.
    #[must_use]
    pub fn sized(mut self, decl: Arc<Decl>) -> Self {
        self.sizes = Some(decl);
        self
    }

    /// With what only mutating policies have: `Object{}`, `JSONPatch{}` and `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// With what only selectors of devices have: `cel.bind(name, value, expression)`.
    #[must_use]
    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<(usize, &Type)> {
        let found = self.variables.iter().rposition(|(known, _)| known == name)?;
        Some((found, &self.variables[found].1))
    }

    /// The type of objects that can be written as literals.
    pub(crate) fn structure(&self, name: &str) -> Option<Type> {
        if !self.patches {
            return None;
        }
        if name == "JSONPatch" {
            let text = |name: &str| (name.to_owned(), Type::String);
            return Some(Type::object(name, [text("op"), text("path"), text("from"), ("value".to_owned(), Type::Dyn)]));
        }
        let dynamic = name == "Object" || name.starts_with("Object.");
        dynamic
            .then(|| Type::Struct(Arc::new(Struct { name: name.to_owned(), fields: Default::default(), open: true })))
    }

    /// Parses and checks an expression.
    pub fn compile(&self, source: &str) -> Result<Program, Issues> {
        let (expr, nodes) = parser::parse(source, self.bindings).map_err(|issues| Issues::new(source, issues))?;
        let checked = check(&expr, nodes, self).map_err(|issues| Issues::new(source, issues))?;
        let issues = literals::check(&expr, &checked.types);
        if !issues.is_empty() {
            return Err(Issues::new(source, issues));
        }
        let cost = cost::estimate(&expr, &checked, self.sizes.as_deref());
        let output = checked.types[expr.id as usize].clone();
        Program::new(expr, checked.refs, output, cost).map_err(|reason| Issues::unfit(source, reason))
    }
}

impl Program {
    pub(crate) fn new(expr: crate::ast::Expr, refs: Vec<Ref>, output: Type, cost: Range) -> Result<Self, String> {
        let used = refs.iter().filter_map(|r| if let Ref::Var(i) = r { Some(*i) } else { None }).collect();
        let links = program::link(&expr, refs)?;
        Ok(Self { expr, links, used, output, cost: cost.max })
    }
}
