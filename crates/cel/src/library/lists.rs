//! Lists and sets: Kubernetes' own list functions, cel-go's lists (version 3) and sets extensions.

use std::cmp::Ordering;

use super::Function;
use crate::error::Error;
use crate::operators::{add, ordered};
use crate::value::{Evaluated, List, Value};

type Args<'x, 'a> = &'x [Value<'a>];

/// More items than this would cost more than any evaluation may.
const MOST_ITEMS: i64 = 1_000_000;

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" | "sum_int" => |args| sum(args, Value::Int(0)),
        "sum_uint" => |args| sum(args, Value::Uint(0)),
        "sum_double" => |args| sum(args, Value::Double(0.0)),
        "sum_duration" => |args| sum(args, Value::Duration(0)),
        "max" => |args| extreme(args, Ordering::Greater, "max"),
        "min" => |args| extreme(args, Ordering::Less, "min"),
        "sort" => |args| match args {
            [list] => sort_by(&[list.clone(), list.clone()]),
            _ => Err(Error::no_overload()),
        },
        "slice" => slice,
        "flatten" => flatten,
        "lists.range" => range,
        "reverse" => |args| {
            let mut items = list_of(args)?.to_vec()?;
            items.reverse();
            Ok(items.into())
        },
        "distinct" => distinct,
        "sets.contains" => |args| sets(args, |a, b| all_in(b, a)),
        "sets.equivalent" => |args| sets(args, |a, b| all_in(a, b) && all_in(b, a)),
        "sets.intersects" => |args| sets(args, |a, b| a.iter().any(|item| item.is_ok_and(|item| b.contains(&item)))),
        _ => return None,
    })
}

fn list_of<'x, 'a>(args: Args<'x, 'a>) -> Result<&'x List<'a>, Error> {
    match args {
        [Value::List(list), ..] => Ok(list),
        _ => Err(Error::no_overload()),
    }
}

fn is_sorted<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let items = list_of(args)?.to_vec()?;
    for pair in items.windows(2) {
        if ordered(&pair[0], &pair[1])?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: Args<'_, 'a>, none: Value<'a>) -> Evaluated<'a> {
    let items = list_of(args)?.to_vec()?;
    let mut items = items.into_iter();
    let Some(mut total) = items.next() else { return Ok(none) };
    for item in items {
        total = add(&[total, item])?;
    }
    Ok(total)
}

fn extreme<'a>(args: Args<'_, 'a>, wanted: Ordering, name: &str) -> Evaluated<'a> {
    let items = list_of(args)?.to_vec()?;
    let mut items = items.into_iter();
    let mut best = items.next().ok_or_else(|| Error::new(format!("{name} called on empty list")))?;
    for item in items {
        if ordered(&item, &best)? == wanted {
            best = item;
        }
    }
    Ok(best)
}

/// A list in the order of another one of the same length.
pub(super) fn sort_by<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::List(keys)] = args else { return Err(Error::no_overload()) };
    if list.len() != keys.len() {
        return Err(Error::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let (items, keys) = (list.to_vec()?, keys.to_vec()?);
    let Some(first) = keys.first() else { return Ok(items.into()) };
    if keys.iter().any(|key| key.type_of() != first.type_of()) {
        return Err(Error::new("list elements must have the same type"));
    }
    for key in &keys {
        ordered(key, key).map_err(|_| Error::new("list elements must be comparable"))?;
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| ordered(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(order.into_iter().map(|i| items[i].clone()).collect::<Vec<_>>().into())
}

fn slice<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return Err(Error::no_overload()) };
    let cannot = |why: String| Err(Error::new(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return cannot("negative indexes not supported".to_owned());
    };
    if from > to {
        return cannot("start index must be less than or equal to end index".to_owned());
    }
    if list.len() < to {
        return cannot(format!("list is length {}", list.len()));
    }
    Ok((from..to).map(|i| list.get(i)).collect::<Result<Vec<_>, _>>()?.into())
}

fn flatten<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let depth = match args {
        [_] => 1,
        [_, Value::Int(depth)] if *depth < 0 => return Err(Error::new("level must be non-negative")),
        [_, Value::Int(depth)] => *depth,
        _ => return Err(Error::no_overload()),
    };
    let mut out = Vec::new();
    flatten_into(list_of(args)?, depth, &mut out)?;
    Ok(out.into())
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<(), Error> {
    for item in list.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            item => out.push(item),
        }
        if out.len() as i64 > MOST_ITEMS {
            return Err(Error::TooCostly);
        }
    }
    Ok(())
}

fn range<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(n)] if *n > MOST_ITEMS => Err(Error::TooCostly),
        [Value::Int(n)] => Ok((0..*n).map(Value::Int).collect::<Vec<_>>().into()),
        _ => Err(Error::no_overload()),
    }
}

fn distinct<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in list_of(args)?.iter() {
        let item = item?;
        if !out.iter().any(|known| known.equals(&item)) {
            out.push(item);
        }
    }
    Ok(out.into())
}

fn sets<'a>(args: Args<'_, 'a>, test: fn(&List<'a>, &List<'a>) -> bool) -> Evaluated<'a> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(test(a, b))),
        _ => Err(Error::no_overload()),
    }
}

fn all_in<'a>(some: &List<'a>, all: &List<'a>) -> bool {
    some.iter().all(|item| item.is_ok_and(|item| all.contains(&item)))
}
