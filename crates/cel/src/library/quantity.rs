//! Quantities (`1Gi`), and the comparisons that they share with versions.

use std::cmp::Ordering;

use skiff_meta::Quantity;
use skiff_meta::quantity::Format;

use super::Function;
use crate::error::Error;
use crate::value::{Special, Value};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "quantity" => |args| match args {
            [Value::String(text)] => {
                let parsed: Result<Quantity, _> = text.parse();
                parsed.map(|q| Special::Quantity(q).into()).map_err(|e| Error::new(e.to_string()))
            }
            _ => Err(Error::no_overload()),
        },
        "isQuantity" => |args| match args {
            [Value::String(text)] => Ok(Value::Bool(text.parse::<Quantity>().is_ok())),
            _ => Err(Error::no_overload()),
        },
        "sign" => |args| {
            let quantity = of(args.first())?;
            let sign = if quantity.is_zero() {
                0
            } else if quantity.is_negative() {
                -1
            } else {
                1
            };
            Ok(Value::Int(sign))
        },
        "asApproximateFloat" => |args| Ok(Value::Double(of(args.first())?.as_f64())),
        "asInteger" => |args| {
            let quantity = of(args.first())?;
            if !quantity.is_whole() {
                return Err(Error::new("cannot convert value to integer"));
            }
            Ok(Value::Int(quantity.value()))
        },
        "isInteger" => |args| Ok(Value::Bool(of(args.first())?.is_whole())),
        "add" => |args| Ok(Special::Quantity(of(args.first())?.plus(operand(args)?)).into()),
        "sub" => |args| Ok(Special::Quantity(of(args.first())?.minus(operand(args)?)).into()),
        _ => return None,
    })
}

fn of(value: Option<&Value<'_>>) -> Result<Quantity, Error> {
    match value {
        Some(Value::Library(special)) => match &**special {
            Special::Quantity(quantity) => Ok(*quantity),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

fn operand(args: &[Value<'_>]) -> Result<Quantity, Error> {
    match args.get(1) {
        Some(Value::Int(n)) => Ok(Quantity::new(*n, Format::DecimalSi)),
        other => of(other),
    }
}

/// `isGreaterThan`, `isLessThan`, `compareTo`.
pub(super) fn comparison(name: &str) -> Option<Function> {
    Some(match name {
        "isGreaterThan" => |args| compared(args).map(|order| Value::Bool(order.is_gt())),
        "isLessThan" => |args| compared(args).map(|order| Value::Bool(order.is_lt())),
        "compareTo" => |args| compared(args).map(|order| Value::Int(order as i64)),
        _ => return None,
    })
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, Error> {
    let [Value::Library(a), Value::Library(b)] = args else { return Err(Error::no_overload()) };
    match (&**a, &**b) {
        (Special::Quantity(a), Special::Quantity(b)) => Ok(a.cmp(b)),
        (Special::Semver(a), Special::Semver(b)) => Ok(a.cmp(b)),
        _ => Err(Error::no_overload()),
    }
}
