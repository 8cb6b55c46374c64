//! What evaluation costs, in cel-go's units, and the limit of it.

use crate::ast::op;
use crate::error::Error;
use crate::library::authorizer;
use crate::value::{List, Map, Special, Value};

/// What may still be spent. A unit is about the work of one comparison.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    left: u64,
    spent: u64,
}

/// Most that one evaluation of one expression may cost, as upstream.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

impl Budget {
    /// This much.
    pub fn new(limit: u64) -> Self {
        Self { left: limit, spent: 0 }
    }

    /// What was spent, also beyond the limit.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Gives back what is about to be charged, where cel-go would not charge it.
    pub(crate) fn refund(&mut self, cost: u64) {
        self.left = self.left.saturating_add(cost);
        self.spent = self.spent.saturating_sub(cost);
    }

    pub(crate) fn spend(&mut self, cost: u64) -> Result<(), Error> {
        self.spent = self.spent.saturating_add(cost);
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Error::TooCostly)
            }
        }
    }
}

/// How a call is priced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CallCost {
    Free,
    Fixed(u64),
    /// A traversal of the first argument, this many times.
    Traverse(u32),
    /// A traversal of the result, twice.
    TraverseResult,
    /// As many as the second argument has items.
    ItemsOfSecond,
    /// A traversal of the shorter argument.
    Shorter,
    Equality,
    /// A traversal of both.
    Both,
    Pattern,
    Contains,
    /// Visiting all that is in the first argument.
    Deep,
    Selector,
    NetContains {
        nets: bool,
        text: bool,
    },
    Format,
    ListOfResult,
    Flatten,
    Compared(usize),
    /// Each of the one with each of the other, this many times.
    Product(u64),
}

fn tenth(size: u64, times: u64) -> u64 {
    (size as f64 * times as f64 * 0.1).ceil() as u64
}

impl CallCost {
    pub(crate) fn of(name: &str, overloads: &[&'static str]) -> Self {
        let overload = if let [only] = overloads { only } else { "" };
        match overload {
            "list_slice" | "lists_range" | "list_reverse" => return Self::ListOfResult,
            "list_flatten" | "list_flatten_int" => return Self::Flatten,
            "list_distinct" => return Self::Compared(0),
            "list_sets_contains_list" | "list_sets_intersects_list" => return Self::Product(1),
            "list_sets_equivalent_list" => return Self::Product(2),
            id if id.starts_with("list_") && id.ends_with("_sort") => return Self::Compared(0),
            id if id.ends_with("_sortByAssociatedKeys") => return Self::Compared(1),
            _ => {}
        }
        match name {
            op::AND | op::OR | op::CONDITIONAL | "or" | "orValue" => Self::Free,
            "check" => Self::Fixed(authorizer::CHECK_COST),
            "fieldSelector" | "labelSelector" => Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Self::Deep,
            "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => Self::Traverse(1),
            "replace" | "split" | "ip.isCanonical" => Self::Traverse(2),
            "join" => Self::TraverseResult,
            "find" | "findAll" => Self::Pattern,
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => Self::Traverse(1),
            "ip" if overload != "cidr_ip" => Self::Traverse(1),
            "containsIP" => Self::NetContains { nets: false, text: overload.ends_with("_string") },
            "containsCIDR" => Self::NetContains { nets: true, text: overload.ends_with("_string") },
            "validate" => Self::Format,
            op::EQUALS => Self::Equality,
            op::NOT_EQUALS => Self::Shorter,
            _ => match overload {
                "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
                | "string_format" => Self::Traverse(1),
                "in_list" => Self::ItemsOfSecond,
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes" => Self::Shorter,
                "add_string" | "add_bytes" => Self::Both,
                "matches_string" | "matches" => Self::Pattern,
                "contains_string" => Self::Contains,
                _ => Self::Fixed(1),
            },
        }
    }

    pub(crate) fn price(self, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
        let size = |i: usize| args.get(i).map_or(1, Value::size);
        match self {
            Self::Free => 0,
            Self::Fixed(cost) => cost,
            Self::Traverse(times) => tenth(size(0), u64::from(times)),
            Self::TraverseResult => tenth(result.map_or(1, Value::size), 2),
            Self::ItemsOfSecond => size(1).saturating_add(heavy(args.get(1))),
            Self::Shorter => tenth(size(0).min(size(1)), 1).saturating_add(heavy(args.first())),
            Self::Equality => match args.first() {
                Some(Value::Library(_)) => 1,
                first => tenth(size(0).min(size(1)), 1).saturating_add(heavy(first)),
            },
            Self::Both => tenth(size(0) + size(1), 1),
            Self::Pattern => tenth(size(0) + 1, 1) * (size(1) as f64 * 0.25).ceil() as u64,
            Self::Contains => tenth(size(0), 1) * tenth(size(1), 1),
            Self::Deep => args.first().map_or(0, deep),
            Self::Selector => {
                // A list to hold requirements, and a list and a struct for each of them, of two characters at least.
                10 + tenth(size(1), 1) + (size(1) as f64 * 0.5).ceil() as u64 * 50
            }
            Self::NetContains { nets, text } => {
                let both = tenth(size(0) * 2, 1);
                let masked = if nets { tenth(size(0), 1) + 1 } else { 0 };
                both + masked + if text { tenth(size(1), 1) } else { 0 }
            }
            Self::Format => match args.first() {
                Some(Value::Library(special)) => match &**special {
                    Special::Format(f) => tenth(size(1) + 1, 1) * (f.pattern_size as f64 * 0.25).ceil() as u64,
                    _ => 1,
                },
                _ => 1,
            },
            Self::ListOfResult => result.map_or(1, Value::size).saturating_add(11),
            Self::Flatten => {
                let depth = match args.get(1) {
                    Some(Value::Int(depth)) => (*depth).max(0) as f64,
                    _ => 1.0,
                };
                (size(0) as f64 * depth) as u64 + 11
            }
            Self::Product(times) => {
                size(0).saturating_mul(size(1)).saturating_mul(times).saturating_add(1 + heavy(args.first()))
            }
            Self::Compared(i) => {
                let items = size(i);
                let text = match args.get(i) {
                    Some(Value::List(list)) if list.len() > 0 => {
                        matches!(list.get(0), Ok(Value::String(_) | Value::Bytes(_)))
                    }
                    _ => false,
                };
                let factor = if text { 2.1 } else { 2.0 };
                ((items as f64 * items as f64) * factor) as u64 + 11
            }
        }
    }
}

/// What comparing a value costs beyond what upstream counts, which is the outermost size only: nothing for what is small,
/// so that costs are upstream's, and enough for what is not, so that no budget lets it be compared for long.
fn heavy(value: Option<&Value<'_>>) -> u64 {
    const SMALL: u64 = 1_000;
    let parts = match value {
        Some(Value::Map(_) | Value::List(_) | Value::Opaque(_)) => value.map_or(0, parts),
        _ => 0,
    };
    if parts > SMALL { parts / 100 } else { 0 }
}

/// What long texts cost beyond what upstream counts, for which some functions (`size`, `format`) are as good as free. Nothing
/// for texts that are not long.
pub(crate) fn bulk(values: &[Value<'_>]) -> u64 {
    const LONG: usize = 64 << 10;
    let lengths = values.iter().map(|value| match value {
        Value::String(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    });
    lengths.filter(|length| *length > LONG).map(|length| (length >> 12) as u64).sum()
}

/// How many values there are in a value, itself included.
fn parts(value: &Value<'_>) -> u64 {
    fn of_json(json: &serde_json::Value) -> u64 {
        match json {
            serde_json::Value::Array(items) => 1 + items.iter().map(of_json).sum::<u64>(),
            serde_json::Value::Object(map) => 1 + map.values().map(of_json).sum::<u64>(),
            _ => 1,
        }
    }
    match value {
        Value::List(List::Json(items, _)) => 1 + items.iter().map(of_json).sum::<u64>(),
        Value::List(List::Owned(items) | List::Merged(items, _)) => 1 + items.iter().map(parts).sum::<u64>(),
        Value::Map(Map::Json(map, _)) => 1 + map.values().map(of_json).sum::<u64>(),
        Value::Map(Map::Owned(map) | Map::Total(map)) => 1 + map.values().map(|(_, value)| parts(value)).sum::<u64>(),
        Value::Opaque(json) => of_json(json),
        _ => 1,
    }
}

/// What visiting a value and all that is in it costs.
fn deep(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * 0.1) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * 0.1) as u64,
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| deep(&item))).sum(),
        Value::Map(map) => {
            map.entries().into_iter().map(|(key, value)| deep(&key) + value.map_or(1, |value| deep(&value))).sum()
        }
        _ => 1,
    }
}
