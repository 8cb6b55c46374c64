//! What an expression may cost at most, estimated from the bounds of its data before it ever runs.
//!
//! After cel-go's `checker/cost.go` and Kubernetes' estimator: which definitions and rules are taken depends on these
//! numbers, so they are upstream's to the unit where the tests compare them.

use std::collections::HashMap;
use std::rc::Rc;

use crate::ast::{ACCU, Expr, Fold, Kind, Literal, op};
use crate::check::{Checked, Ref};
use crate::library::authorizer::CHECK_COST;
use crate::schema::Decl;
use crate::types::{Library, Type};

/// From the least to the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
const ONE: Range = Range::fixed(1);
/// What traversing a text costs per character, and a pattern per character.
const TRAVERSAL: f64 = 0.1;
const PATTERN: f64 = 0.25;
/// The longest pattern of a named format.
const FORMAT_PATTERN: f64 = 128.0;
const LONGEST_FORMAT: u64 = 64;

impl Range {
    const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }
    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }
    fn by(self, factor: f64) -> Self {
        // Saturating, as floats are when they become integers.
        let scaled = |n: u64| (n as f64 * factor).ceil() as u64;
        Self { min: scaled(self.min), max: scaled(self.max) }
    }
    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What the items of a list, or the keys and values of a map, are in size.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

type Path = Rc<[Rc<str>]>;

struct Local {
    path: Path,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What a call costs, and how large its result is.
struct Estimate {
    cost: Range,
    size: Option<Range>,
}

pub(crate) fn estimate(expr: &Expr, checked: &Checked, decl: Option<&Decl>) -> Range {
    let (paths, locals, sizes, entries) = (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
    Estimator { checked, decl, paths, locals, sizes, entries }.cost(expr)
}

struct Estimator<'a> {
    checked: &'a Checked,
    decl: Option<&'a Decl>,
    paths: HashMap<u32, Path>,
    locals: HashMap<&'a str, Vec<Local>>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
}

impl<'a> Estimator<'a> {
    fn ty(&self, expr: &Expr) -> &'a Type {
        &self.checked.types[expr.id as usize]
    }

    fn cost(&mut self, expr: &'a Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) => Range::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| [Rc::from(&**name)].into(), |local| local.path.clone());
                self.paths.insert(expr.id, path);
                ONE
            }
            Kind::Select { .. } if matches!(self.checked.refs[expr.id as usize], Ref::Type(_)) => {
                self.paths.insert(expr.id, [Rc::from("type")].into());
                ONE
            }
            Kind::Select { .. } if matches!(self.checked.refs[expr.id as usize], Ref::Var(_)) => ONE,
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let mut sum = self.cost(operand);
                if matches!(self.ty(operand), Type::Map(_) | Type::Struct(_) | Type::Library(_) | Type::Param(_)) {
                    sum = sum.plus(ONE);
                }
                self.extend_path(expr, operand, field);
                sum
            }
            Kind::Call { name, target, args } => self.call(expr, name, target.as_deref(), args),
            Kind::List { items, .. } => {
                let mut sum = Range::fixed(10);
                let mut value = Range { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for item in items {
                    sum = sum.plus(self.cost(item));
                    value = value.union(self.size_or_unknown(item));
                }
                self.entries.insert(expr.id, Entries { list: true, key: ONE, value });
                sum
            }
            Kind::Map(entries) => {
                let mut sum = Range::fixed(30);
                let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut key, mut value) = (none, none);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size_or_unknown(&entry.key));
                    value = value.union(self.size_or_unknown(&entry.value));
                }
                self.entries.insert(expr.id, Entries { list: false, key, value });
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Range::fixed(40), |sum, field| sum.plus(self.cost(&field.value)))
            }
            Kind::Fold(fold) if fold.is_binding() => {
                let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
                self.push_bound(&fold.accu, &fold.init);
                let sum = sum.plus(self.cost(&fold.result));
                self.pop(&fold.accu);
                let (size, entries) = (self.size(&fold.result), self.entries_of(&fold.result));
                self.set(expr, size, entries);
                sum
            }
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn fold(&mut self, expr: &'a Expr, fold: &'a Fold) -> Range {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_bound(&fold.accu, &fold.init);
        let entries = self.entries_of(&fold.range);
        let list = entries.map_or(matches!(self.ty(&fold.range), Type::List(_)), |e| e.list);
        let path = self.path(&fold.range);
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let mut push = |name: &'a str, part: &str, size: Option<Range>| {
            let local = Local { path: joined(&path, part), size, entries: None };
            self.locals.entry(name).or_default().push(local);
        };
        match (&fold.second, list) {
            (None, true) => push(&fold.var, "@items", value),
            (None, false) => push(&fold.var, "@keys", key),
            (Some(second), _) => {
                push(&fold.var, if list { "@indices" } else { "@keys" }, key);
                push(second, if list { "@items" } else { "@values" }, value);
            }
        }
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.pop(&fold.var);
        if let Some(second) = &fold.second {
            self.pop(second);
        }
        sum = sum.plus(self.cost(&fold.result));
        self.pop(&fold.accu);
        let rounds = self.size_or_unknown(&fold.range);
        sum = sum.plus(rounds.times(round));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.set(expr, size, None);
            }
            Kind::List { .. } | Kind::Map(_) => {
                let entries = self.entries_of(&fold.step);
                self.set(expr, Some(rounds), entries);
            }
            _ => {}
        }
        sum
    }

    fn call(&mut self, expr: &'a Expr, name: &str, target: Option<&'a Expr>, args: &'a [Expr]) -> Range {
        if name == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg);
            let (size, entries) = (self.size(arg), self.entries_of(arg));
            self.set(expr, size, entries);
            return cost.plus(ONE);
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let Ref::Call { name, overloads, free } = &self.checked.refs[expr.id as usize] else { return Range::fixed(0) };
        let target = target.filter(|_| !free);
        let mut sum = Range::fixed(0);
        if let Some(target) = target {
            sum = self.cost(target);
        }
        let mut of_call = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let estimate = self.overload(expr, name, overload, target, args, &costs);
            of_call = of_call.union(estimate.cost);
            size = match (size, estimate.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", Some(container)) = (*overload, args.first()) {
                size = self.entries_of(container).map(|e| e.value);
                self.extend_path(expr, container, if *overload == "index_list" { "@items" } else { "@values" });
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        self.set(expr, size, None);
        sum.plus(of_call)
    }

    fn overload(
        &mut self,
        expr: &'a Expr,
        name: &str,
        overload: &str,
        target: Option<&'a Expr>,
        args: &'a [Expr],
        costs: &[Range],
    ) -> Estimate {
        let args_cost = costs.iter().fold(Range::fixed(0), |sum, cost| sum.plus(*cost));
        if let Some(mut estimate) = self.library(name, overload, target, args) {
            estimate.cost = estimate.cost.plus(args_cost);
            return estimate;
        }
        let plain = |cost: Range| Estimate { cost: cost.plus(args_cost), size: None };
        match (overload, target, args) {
            ("string_format", Some(target), _) => plain(self.size_or_unknown(target).by(TRAVERSAL)),
            ("string_to_bytes", None, [arg]) => {
                let size = self.size_or_unknown(arg);
                let result = Range { min: size.min, max: size.max.saturating_mul(4) };
                Estimate { size: Some(result), ..plain(size.by(TRAVERSAL)) }
            }
            ("bytes_to_string", None, [arg]) => {
                let size = self.size_or_unknown(arg);
                Estimate { size: Some(Range { min: size.min / 4, max: size.max }), ..plain(size.by(TRAVERSAL)) }
            }
            ("strings_quote", None, [arg]) => {
                let size = self.size_or_unknown(arg);
                let result =
                    Range { min: size.min.saturating_add(2), max: size.max.saturating_mul(2).saturating_add(2) };
                Estimate { size: Some(result), ..plain(size.by(TRAVERSAL)) }
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => plain(self.size_or_unknown(arg).by(TRAVERSAL)),
            ("in_list", _, [_, list]) => plain(self.size_or_unknown(list).by(1.0)),
            ("matches_string", Some(text), [pattern]) => plain(self.pattern_cost(text, pattern)),
            ("contains_string", Some(text), [part]) => {
                let (text, part) = (self.size_or_unknown(text), self.size_or_unknown(part));
                plain(text.by(TRAVERSAL).times(part.by(TRAVERSAL)))
            }
            ("logical_or" | "logical_and", _, [_, _]) => {
                let cost = Range { min: costs[0].min, max: costs[0].plus(costs[1]).max };
                Estimate { cost, size: None }
            }
            ("conditional", _, [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                let entries = Entries::union(self.entries_of(yes), self.entries_of(no));
                self.set(expr, None, entries);
                Estimate { cost: costs[0].plus(costs[1].union(costs[2])), size: Some(size) }
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = self.size_or_unknown(a).plus(self.size_or_unknown(b));
                let entries = Entries::union(self.entries_of(a), self.entries_of(b));
                self.set(expr, None, entries);
                let cost = if overload == "add_list" { ONE } else { size.by(TRAVERSAL) };
                Estimate { size: Some(size), ..plain(cost) }
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [a, b],
            ) => {
                let max = self.size_or_unknown(a).max.min(self.size_or_unknown(b).max);
                plain(Range { min: u64::from(max > 0), max }.by(TRAVERSAL))
            }
            _ => plain(ONE),
        }
    }

    fn pattern_cost(&mut self, text: &'a Expr, pattern: &'a Expr) -> Range {
        // One more than there is, so that an expensive pattern costs something on an empty text.
        let text = self.size_or_unknown(text).plus(ONE).by(TRAVERSAL);
        text.times(self.size_or_unknown(pattern).by(PATTERN))
    }

    /// What Kubernetes' estimator and cel-go's lists extension say.
    fn library(&mut self, name: &str, overload: &str, target: Option<&'a Expr>, args: &'a [Expr]) -> Option<Estimate> {
        let plain = |cost| Some(Estimate { cost, size: None });
        let sized = |cost, size| Some(Estimate { cost, size: Some(size) });
        if let Some(estimate) = self.lists(overload, target, args) {
            return Some(estimate);
        }
        match (name, target, args) {
            ("check", ..) => plain(Range::fixed(CHECK_COST)),
            (
                "serviceAccount"
                | "path"
                | "group"
                | "resource"
                | "subresource"
                | "namespace"
                | "name"
                | "allowed"
                | "reason"
                | "error"
                | "errored"
                | "masked"
                | "prefixLength"
                | "family"
                | "isUnspecified"
                | "isLoopback"
                | "isLinkLocalMulticast"
                | "isLinkLocalUnicast"
                | "isGlobalUnicast"
                | "format.named"
                | "sign"
                | "asInteger"
                | "isInteger"
                | "asApproximateFloat"
                | "isGreaterThan"
                | "isLessThan"
                | "compareTo"
                | "add"
                | "sub"
                | "major"
                | "minor"
                | "patch"
                | "getScheme"
                | "getHostname"
                | "getHost"
                | "getPort"
                | "getEscapedPath"
                | "getQuery",
                ..,
            ) => plain(ONE),
            ("fieldSelector" | "labelSelector", _, [selector]) => {
                let size = self.size_or_unknown(selector);
                plain(Range::fixed(10).plus(size.by(TRAVERSAL)).plus(size.by(0.5).by(50.0)))
            }
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
                let size = self.size_or_unknown(target);
                match self.ty(target) {
                    Type::List(item) => {
                        let mut each = ONE;
                        if matches!(**item, Type::String | Type::Bytes) {
                            each = each.plus(self.item_size(target).by(TRAVERSAL));
                        }
                        plain(size.times(each))
                    }
                    _ => plain(size.by(TRAVERSAL)),
                }
            }
            ("url" | "jsonpatch.escapeKey", _, [text])
            | ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
                let size = self.size_or_unknown(text);
                sized(size.by(TRAVERSAL), size)
            }
            ("replace", Some(text), [old, new, ..]) => {
                let (text, old, new) =
                    (self.size_or_unknown(text), self.size_or_unknown(old), self.size_or_unknown(new));
                sized(text.by(2.0 * TRAVERSAL), replaced(text, old, new))
            }
            ("split", Some(text), _) => {
                let size = self.size_or_unknown(text);
                let max = match args.get(1).map(|limit| &limit.kind) {
                    Some(Kind::Literal(Literal::Int(limit))) => *limit as u64,
                    _ => size.max,
                };
                sized(size.by(2.0 * TRAVERSAL), Range { min: 0, max })
            }
            ("join", Some(list), _) => {
                let length = self.size_or_unknown(list);
                let mut size = length.times(self.item_size(list));
                if let Some(separator) = args.first() {
                    let gaps = Range { min: length.min.saturating_sub(1), max: length.max.saturating_sub(1) };
                    size = size.plus(self.size_or_unknown(separator).times(gaps));
                }
                sized(size.by(TRAVERSAL), size)
            }
            ("find" | "findAll", Some(text), [pattern, ..]) => {
                let max = self.size_or_unknown(text).max;
                sized(self.pattern_cost(text, pattern), Range { min: 0, max })
            }
            ("ip", ..) if overload == "cidr_ip" => plain(ONE),
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [text, ..]) => {
                plain(self.size_or_unknown(text).by(TRAVERSAL))
            }
            ("ip.isCanonical", _, [text]) => plain(self.size_or_unknown(text).by(2.0 * TRAVERSAL)),
            ("containsIP" | "containsCIDR", _, [other]) => {
                let bytes = Range { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).by(TRAVERSAL);
                if name == "containsCIDR" {
                    cost = cost.plus(bytes.by(TRAVERSAL)).plus(ONE);
                }
                if overload.ends_with("_string") {
                    cost = cost.plus(self.size_or_unknown(other).by(TRAVERSAL));
                }
                plain(cost)
            }
            ("validate", _, [text]) => plain(self.size_or_unknown(text).by(TRAVERSAL).by(FORMAT_PATTERN * PATTERN)),
            (op::EQUALS, _, [a, b]) if self.ty(a) == self.ty(b) => match self.ty(a) {
                Type::Library(Library::Format) => plain(Range { min: 1, max: LONGEST_FORMAT }.by(TRAVERSAL)),
                Type::Library(Library::Url) => {
                    let max = self.size(b).map_or(1, |size| size.max);
                    plain(Range { min: 1, max }.by(TRAVERSAL))
                }
                Type::Library(_) => plain(ONE),
                _ => None,
            },
            _ => None,
        }
    }

    fn lists(&mut self, overload: &str, target: Option<&'a Expr>, args: &'a [Expr]) -> Option<Estimate> {
        let number = |expr: &Expr| match &expr.kind {
            Kind::Literal(Literal::Int(n)) => Some((*n).max(0) as u64),
            _ => None,
        };
        let allocated = |factor: f64, size: Range| {
            Some(Estimate { cost: size.by(factor).plus(Range::fixed(11)), size: Some(size) })
        };
        match (overload, target, args) {
            ("list_slice", Some(list), [start, end]) => {
                let most = self.size_or_unknown(list).max;
                let length = number(end).unwrap_or(most).wrapping_sub(number(start).unwrap_or(0));
                allocated(1.0, Range::fixed(length))
            }
            ("lists_range", _, [n]) => allocated(1.0, Range::fixed(number(n).unwrap_or(u64::MAX))),
            ("list_reverse", Some(list), _) => allocated(1.0, self.size_or_unknown(list)),
            ("list_flatten" | "list_flatten_int", Some(list), _) => {
                let depth = args.first().map_or(1, |depth| number(depth).unwrap_or(u64::MAX));
                allocated(depth as f64, self.size_or_unknown(list))
            }
            (sets, None, [a, b]) if sets.starts_with("list_sets_") => {
                let product = self.size_or_unknown(a).times(self.size_or_unknown(b));
                let twice = if sets.starts_with("list_sets_equivalent") { 2.0 } else { 1.0 };
                Some(Estimate { cost: product.by(twice).plus(ONE), size: None })
            }
            ("list_distinct", Some(list), _) => {
                let size = self.size_or_unknown(list);
                allocated(2.0, size.times(size))
            }
            (sort, Some(list), _) if sort.starts_with("list_") && sort.contains("_sort") => {
                let size = self.size_or_unknown(args.first().unwrap_or(list));
                let text = sort.starts_with("list_string") || sort.starts_with("list_bytes");
                allocated(if text { 2.0 + TRAVERSAL } else { 2.0 }, size.times(size))
            }
            _ => None,
        }
    }

    /// The size of a list's items, by where the list lies in the data.
    fn item_size(&mut self, list: &'a Expr) -> Range {
        let path = self.path_of_data(list);
        let item = (!path.is_empty()).then(|| joined(&path, "@items"));
        item.and_then(|item| self.declared(&item)).unwrap_or(UNKNOWN)
    }

    fn declared(&self, path: &[Rc<str>]) -> Option<Range> {
        if path.is_empty() {
            return None;
        }
        Some(Range { min: 0, max: self.decl?.at(path)?.max_elements })
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name)?.last()
    }

    fn pop(&mut self, name: &str) {
        if let Some(stack) = self.locals.get_mut(name) {
            stack.pop();
        }
    }

    fn push_bound(&mut self, name: &'a str, value: &'a Expr) {
        let (path, entries, size) = (self.path(value), self.entries_of(value), self.size(value));
        self.locals.entry(name).or_default().push(Local { path, size, entries });
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Some(local) = expr.as_ident().and_then(|name| self.local(name)) {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_else(|| [].into())
    }

    /// As [`Self::path`], but an accumulator lies nowhere.
    fn path_of_data(&self, expr: &Expr) -> Path {
        let path = self.path(expr);
        if path.first().is_some_and(|first| &**first == ACCU) { [].into() } else { path }
    }

    fn extend_path(&mut self, expr: &Expr, below: &Expr, part: &str) {
        let path = joined(&self.path(below), part);
        self.paths.insert(expr.id, path);
    }

    fn set(&mut self, expr: &Expr, size: Option<Range>, entries: Option<Entries>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        let known = self.entries.get(&expr.id).copied();
        known.or_else(|| self.local(expr.as_ident()?)?.entries)
    }

    fn size(&mut self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let written = match &expr.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count() as u64),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len() as u64),
            Kind::Literal(_) => Some(1),
            Kind::List { items, .. } => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(size) = written {
            return Some(Range::fixed(size));
        }
        if let Some(size) = self.declared(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.ty(expr).is_scalar() {
            return Some(ONE);
        }
        self.local(expr.as_ident()?)?.size
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Range {
        self.size(expr).unwrap_or(UNKNOWN)
    }
}

fn joined(path: &[Rc<str>], part: &str) -> Path {
    path.iter().cloned().chain([Rc::from(part)]).collect()
}

/// The size of a text in which `old` is replaced by `new`.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    let times = |text: u64, old: u64| (text as f64 / old as f64).ceil() as u64;
    let (count_max, kept_max) = if old.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if new.max <= old.min {
        (0, text.max)
    } else {
        (times(text.max, old.min), 0)
    };
    let (count_min, kept_min) = if old.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if old.max <= new.min {
        (0, text.min)
    } else {
        (times(text.min, old.max), 0)
    };
    Range { min: count_min, max: count_max }.times(new).plus(Range { min: kept_min, max: kept_max })
}
