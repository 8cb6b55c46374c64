//! The functions of the language and of its libraries, by name.

pub(crate) mod authorizer;
pub(crate) mod formats;
mod formatting;
mod lists;
mod net;
mod optional;
mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod strings;
pub(crate) mod url;

use crate::ast::op;
use crate::error::Error;
use crate::value::{Evaluated, Value};
use crate::{convert, eval, operators, time};

/// A function over all of its arguments, the receiver first.
pub(crate) type Function = for<'a> fn(&[Value<'a>]) -> Evaluated<'a>;

/// Makes functions of one name each, for those of which one does the work of many.
macro_rules! by_name {
    ($name:expr, $run:path, [$($known:literal),+ $(,)?]) => {
        match $name {
            $($known => {
                fn named<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
                    $run($known, args)
                }
                Some(named as Function)
            })+
            _ => None,
        }
    };
}

fn converted<'a>(to: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] => convert::convert(to, value),
        _ => Err(Error::no_overload()),
    }
}

fn type_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [value] => Ok(convert::type_value(value)),
        _ => Err(Error::no_overload()),
    }
}

/// The function of a name; `None` for what the evaluation does itself.
pub(crate) fn function(name: &str) -> Option<Function> {
    Some(match name {
        op::ADD => operators::add,
        "_-_" => operators::subtract,
        "_*_" => operators::multiply,
        "_/_" => operators::divide,
        "_%_" => operators::modulo,
        op::NEGATE => operators::negate,
        op::NOT => operators::not,
        op::EQUALS => operators::equals,
        op::NOT_EQUALS => operators::differs,
        "_<_" => operators::less,
        "_<=_" => operators::less_or_equal,
        "_>_" => operators::greater,
        "_>=_" => operators::greater_or_equal,
        op::INDEX => eval::index,
        op::OPT_INDEX => operators::optional_index,
        op::IN => operators::within,
        op::SORT_BY => lists::sort_by,
        "size" => operators::size,
        "type" => type_of,
        "dyn" => |args| args.first().cloned().ok_or_else(Error::no_overload),
        "indexOf" => strings::index_of,
        "lastIndexOf" => strings::last_index_of,
        "isGreaterThan" | "isLessThan" | "compareTo" => return quantity::comparison(name),
        "ip" => net::ip,
        _ => {
            return by_name!(
                name,
                converted,
                ["bool", "bytes", "double", "duration", "int", "string", "timestamp", "uint"]
            )
            .or_else(|| {
                by_name!(
                    name,
                    time::part,
                    [
                        "getFullYear",
                        "getMonth",
                        "getDayOfYear",
                        "getDayOfMonth",
                        "getDate",
                        "getDayOfWeek",
                        "getHours",
                        "getMinutes",
                        "getSeconds",
                        "getMilliseconds"
                    ]
                )
            })
            .or_else(|| strings::function(name))
            .or_else(|| lists::function(name))
            .or_else(|| optional::function(name))
            .or_else(|| regex::function(name))
            .or_else(|| quantity::function(name))
            .or_else(|| net::function(name))
            .or_else(|| url::function(name))
            .or_else(|| semver::function(name))
            .or_else(|| formats::function(name))
            .or_else(|| authorizer::function(name));
        }
    })
}
pub(crate) use by_name;
