//! Values of expressions. JSON is not copied: it is looked at, through its schema, as far as an expression looks.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use ipnet::IpNet;
use serde_json::Value as Json;
use skiff_meta::Quantity;

use crate::error::Error;
use crate::library::authorizer::Check;
use crate::library::formats::Format;
use crate::library::semver::Semver;
use crate::library::url::Url;
use crate::schema::{ListKind, Schema, Shape};
use crate::time::Moment;
use crate::types::{Library, Type};

/// A value; `'a` is the life of the data and of the program.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Rc<[u8]>),
    Timestamp(Moment),
    /// In nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Rc<Type>),
    /// An object literal: its type's name and its fields.
    Struct(Rc<(&'a str, BTreeMap<&'a str, Value<'a>>)>),
    /// Whose members are evaluated when they are asked for.
    Lazy(Rc<dyn Members<'a> + 'a>),
    /// JSON that no schema describes, in a place where one is wanted: it can only be compared.
    Opaque(&'a Json),
    /// A value of Kubernetes' libraries.
    Library(Rc<Special<'a>>),
}

/// Values of Kubernetes' libraries.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Special<'a> {
    Quantity(Quantity),
    Ip(IpAddr),
    Cidr(IpNet),
    Url(Url),
    Semver(Semver),
    Format(&'static Format),
    Check(Check<'a>),
}

/// An object whose members are computed on demand.
pub trait Members<'a>: std::fmt::Debug {
    /// The member; `None` if there is no such.
    fn get(&self, name: &str, spend: &mut crate::Budget) -> Option<Result<Value<'a>, Error>>;
}

/// Text, borrowed from the data or made by the expression.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Owned(Rc<str>),
}

/// A list.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum List<'a> {
    Owned(Rc<Vec<Value<'a>>>),
    /// A sum of lists that are sets or have keys: it still is one.
    Merged(Rc<Vec<Value<'a>>>, &'a ListKind),
    Json(&'a [Json], &'a Schema),
}

/// A map, or an object with fields.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Map<'a> {
    Owned(Rc<BTreeMap<Key<'a>, (Value<'a>, Value<'a>)>>),
    /// Whoever asks for a key that is not there gets an empty map.
    Total(Rc<BTreeMap<Key<'a>, (Value<'a>, Value<'a>)>>),
    Json(&'a serde_json::Map<String, Json>, &'a Schema),
}

/// A key of a map; numbers of different types that are equal are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Key<'a> {
    Bool(bool),
    Int(i128),
    String(Text<'a>),
}

/// Values may get this large and no larger, whatever the budget: bytes of a text, items of a list.
pub(crate) const LARGEST: usize = 16 << 20;

pub(crate) type Evaluated<'a> = Result<Value<'a>, Error>;

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}
impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Text<'_> {}
impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }
}
impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::String(Text::Owned(text.into()))
    }
}
impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Owned(Rc::new(items)))
    }
}
impl<'a> From<Special<'a>> for Value<'a> {
    fn from(special: Special<'a>) -> Self {
        Self::Library(Rc::new(special))
    }
}
impl<'a> From<Option<Value<'a>>> for Value<'a> {
    fn from(value: Option<Value<'a>>) -> Self {
        Self::Optional(value.map(Rc::new))
    }
}

impl<'a> Value<'a> {
    /// JSON without a schema: integers, doubles, text, lists, maps.
    pub fn json(json: &'a Json) -> Self {
        view(json, &Schema::ANY).unwrap_or(Value::Opaque(json))
    }

    /// JSON through its schema. The error is that of data that do not fit it.
    pub fn of(json: &'a Json, schema: &'a Schema) -> Result<Self, Error> {
        view(json, schema)
    }

    /// The type's name.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(Map::Json(_, schema)) if schema.is_object() => Type::object("object", []),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Type(_) => Type::Type(None),
            Self::Struct(object) => Type::object(object.0, []),
            Self::Lazy(_) => Type::object("kubernetes.variables", []),
            Self::Opaque(_) => Type::Dyn,
            Self::Library(special) => Type::Library(match &**special {
                Special::Quantity(_) => Library::Quantity,
                Special::Ip(_) => Library::Ip,
                Special::Cidr(_) => Library::Cidr,
                Special::Url(_) => Library::Url,
                Special::Semver(_) => Library::Semver,
                Special::Format(_) => Library::Format,
                Special::Check(check) => check.library(),
            }),
        }
    }

    /// What cel-go calls the size: characters, bytes, items; 1 for everything else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(value)) => value.size(),
            Self::Library(special) => match &**special {
                Special::Ip(IpAddr::V4(_)) => 4,
                Special::Ip(IpAddr::V6(_)) => 16,
                Special::Cidr(net) => u64::from(net.prefix_len().div_ceil(8)),
                Special::Format(format) => format.name.len() as u64,
                _ => 1,
            },
            _ => 1,
        }
    }

    /// Zero, empty, null: what `ofNonZeroValue` leaves out.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(b) => !b,
            Self::Int(n) => *n == 0,
            Self::Uint(n) => *n == 0,
            Self::Double(n) => *n == 0.0,
            Self::Duration(n) => *n == 0,
            Self::String(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::List(list) => list.len() == 0,
            Self::Map(map) => map.len() == 0,
            Self::Optional(value) => value.as_deref().is_none_or(Value::is_zero),
            Self::Timestamp(moment) => moment.is_zero(),
            Self::Struct(object) => object.1.is_empty(),
            _ => false,
        }
    }

    /// As upstream prints it within messages: `no such key: name`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::String(text) => text.to_string(),
            other => {
                crate::convert::to_string(other).map_or_else(|_| other.type_of().name().to_owned(), |t| t.to_string())
            }
        }
    }

    /// Equality across types: numbers compare by value, other types are never equal.
    pub(crate) fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b),
            (Self::Map(a), Self::Map(b)) => a.equals(b),
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Type(a), Self::Type(b)) => a.name() == b.name(),
            (Self::Struct(a), Self::Struct(b)) => {
                let same = |(name, value): (&&str, &Value<'a>)| b.1.get(name).is_some_and(|v| v.equals(value));
                a.0 == b.0 && a.1.len() == b.1.len() && a.1.iter().all(same)
            }
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Library(a), Self::Library(b)) => a.equals(b),
            (a, b) if a.is_number() && b.is_number() => compare(a, b) == Some(Ordering::Equal),
            _ => false,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }

    /// As JSON, for patches and annotations; `None` for what has no form in it.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(n) => serde_json::Number::from_f64(*n).map(Json::Number)?,
            Self::String(text) => Json::from(&**text),
            Self::List(list) => {
                (0..list.len()).map(|i| list.get(i).ok()?.to_json()).collect::<Option<Vec<_>>>()?.into()
            }
            Self::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Self::Map(Map::Owned(map) | Map::Total(map)) => {
                let entry = |(key, value): &(Value<'a>, Value<'a>)| match key {
                    Value::String(key) => Some((key.to_string(), value.to_json()?)),
                    _ => None,
                };
                Json::Object(map.values().map(entry).collect::<Option<_>>()?)
            }
            Self::Struct(object) => {
                let field = |(name, value): (&&str, &Value<'a>)| Some(((*name).to_owned(), value.to_json()?));
                Json::Object(object.1.iter().map(field).collect::<Option<_>>()?)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Opaque(json) => (*json).clone(),
            Self::Bytes(bytes) => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.encode(bytes).into()
            }
            Self::Timestamp(_) | Self::Duration(_) => Json::from(crate::convert::to_string(self).ok()?.to_string()),
            _ => return None,
        })
    }
}

impl Special<'_> {
    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Check(a), Self::Check(b)) => a.equals(b),
            _ => false,
        }
    }
}

/// The order of two values; `None` where they have none.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Uint(a), Value::Uint(b)) => a.cmp(b),
        (Value::Int(a), Value::Uint(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Uint(a), Value::Int(b)) => i128::from(*a).cmp(&i128::from(*b)),
        (Value::Double(a), Value::Double(b)) => return a.partial_cmp(b),
        (Value::Double(a), Value::Int(b)) => return whole_against(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => return whole_against(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Int(a), Value::Double(b)) => return whole_against(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => return whole_against(i128::from(*a), *b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        _ => return None,
    })
}

fn whole_against(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Saturating: what is outside of i128 is far outside of both integers.
    let floor = double.floor();
    Some(whole.cmp(&(floor as i128)).then(if double > floor { Ordering::Less } else { Ordering::Equal }))
}

/// JSON through its schema.
fn view<'a>(json: &'a Json, schema: &'a Schema) -> Evaluated<'a> {
    use crate::schema::TextKind;
    let wrong = |wanted: &str| Err(Error::new(format!("invalid data, expected {wanted}, got {}", go_type(json))));
    if json.is_null() && !matches!(schema.shape, Shape::Any) {
        return match schema.nullable {
            true => Ok(Value::Null),
            false => Err(Error::new("invalid data, got null for schema with nullable=false")),
        };
    }
    match (&schema.shape, json) {
        (Shape::Any, _) => Ok(match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => number(n),
            Json::String(text) => Value::from(text.as_str()),
            Json::Array(items) => Value::List(List::Json(items, &Schema::ANY)),
            Json::Object(map) => Value::Map(Map::Json(map, &Schema::ANY)),
        }),
        (Shape::IntOrString, Json::String(text)) => Ok(Value::from(text.as_str())),
        (Shape::IntOrString, Json::Number(n)) if n.is_i64() => Ok(number(n)),
        (Shape::IntOrString, _) => {
            Err(Error::new("invalid data, expected XIntOrString value to be either a string or integer"))
        }
        (Shape::Object(_) | Shape::Map(_), Json::Object(map)) => Ok(Value::Map(Map::Json(map, schema))),
        (Shape::Object(_) | Shape::Map(_), _) => {
            Err(Error::new("invalid data, expected a map for the provided schema with type=object"))
        }
        (Shape::List { .. }, Json::Array(items)) => Ok(Value::List(List::Json(items, schema))),
        (Shape::List { .. }, _) => {
            Err(Error::new("invalid data, expected an array for the provided schema with type=array"))
        }
        (Shape::Text(kind), Json::String(text)) => match kind {
            TextKind::Plain => Ok(Value::from(text.as_str())),
            TextKind::Duration => crate::time::parse_strfmt_duration(text)
                .map(Value::Duration)
                .ok_or_else(|| Error::new(format!("Invalid duration {text}: unable to parse {text} into duration"))),
            TextKind::Date => crate::time::parse_date(text)
                .map(Value::Timestamp)
                .ok_or_else(|| Error::new(format!("Invalid date formatted string {text}"))),
            TextKind::DateTime => crate::time::parse_date_time(text)
                .map(Value::Timestamp)
                .ok_or_else(|| Error::new(format!("Invalid date-time formatted string {text}"))),
            TextKind::Bytes => {
                use base64::Engine as _;
                let decoded = base64::engine::general_purpose::STANDARD.decode(text);
                decoded
                    .map(|bytes| Value::Bytes(bytes.into()))
                    .map_err(|e| Error::new(format!("Invalid byte formatted string {text}: {e}")))
            }
        },
        (Shape::Text(_), _) => wrong("string"),
        (Shape::Number, Json::Number(n)) => Ok(Value::Double(n.as_f64().unwrap_or(f64::NAN))),
        (Shape::Number, _) => wrong("float"),
        (Shape::Int, Json::Number(n)) => match n.as_i64() {
            Some(n) => Ok(Value::Int(n)),
            None => n
                .as_f64()
                .filter(|n| n.fract() == 0.0 && n.abs() < 9e18)
                .map_or_else(|| wrong("int"), |n| Ok(Value::Int(n as i64))),
        },
        (Shape::Int, _) => wrong("int"),
        (Shape::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
        (Shape::Bool, _) => wrong("bool"),
        (Shape::Unknown, json) => Ok(Value::Opaque(json)),
    }
}

fn number<'a>(n: &serde_json::Number) -> Value<'a> {
    match (n.as_i64(), n.as_u64()) {
        (Some(n), _) => Value::Int(n),
        (None, Some(n)) => Value::Uint(n),
        _ => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
    }
}

fn go_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_i64() => "int64",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Owned(items) | Self::Merged(items, _) => items.len(),
            Self::Json(items, _) => items.len(),
        }
    }

    /// The item at an index that is within the list.
    pub(crate) fn get(&self, index: usize) -> Evaluated<'a> {
        match self {
            Self::Owned(items) | Self::Merged(items, _) => {
                items.get(index).cloned().ok_or_else(|| out_of_bounds(index))
            }
            Self::Json(items, schema) => {
                view(items.get(index).ok_or_else(|| out_of_bounds(index))?, schema.item().unwrap_or(&Schema::ANY))
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Evaluated<'a>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    pub(crate) fn to_vec(&self) -> Result<Vec<Value<'a>>, Error> {
        match self {
            Self::Owned(items) | Self::Merged(items, _) => Ok(items.as_ref().clone()),
            Self::Json(..) => self.iter().collect(),
        }
    }

    /// Its items, without those that do not fit their schema.
    pub fn items(&self) -> Vec<Value<'a>> {
        self.iter().filter_map(Result::ok).collect()
    }

    pub(crate) fn contains(&self, value: &Value<'a>) -> bool {
        self.iter().any(|item| item.is_ok_and(|item| item.equals(value)))
    }

    fn kind(&self) -> &'a ListKind {
        match self {
            Self::Merged(_, kind) => kind,
            Self::Json(_, Schema { shape: Shape::List { kind, .. }, .. }) => kind,
            _ => &ListKind::Atomic,
        }
    }

    /// Sets compare without order, lists with keys by them.
    fn equals(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match self.kind() {
            ListKind::Atomic => {
                self.iter().zip(other.iter()).all(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if a.equals(&b)))
            }
            ListKind::Set => other.iter().all(|item| item.is_ok_and(|item| self.contains(&item))),
            ListKind::Map(keys) => other.iter().all(|item| {
                item.is_ok_and(|item| {
                    self.with_keys(&item, keys).and_then(|i| self.get(i).ok()).is_some_and(|a| a.equals(&item))
                })
            }),
        }
    }

    fn with_keys(&self, wanted: &Value<'a>, keys: &[String]) -> Option<usize> {
        let same = |item: &Value<'a>| keys.iter().all(|key| same_member(item, wanted, key));
        (0..self.len()).find(|i| self.get(*i).is_ok_and(|item| same(&item)))
    }

    /// Concatenation: of sets without what is there already; of lists with keys, where the later item takes the place of the
    /// former.
    pub(crate) fn plus(&self, other: &Self) -> Evaluated<'a> {
        if self.len() + other.len() > LARGEST / 16 {
            return Err(Error::new("list is too large"));
        }
        let mut items = self.to_vec()?;
        match self.kind() {
            ListKind::Atomic => items.extend(other.to_vec()?),
            ListKind::Set => {
                for item in other.iter() {
                    let item = item?;
                    if !items.iter().any(|known| known.equals(&item)) {
                        items.push(item);
                    }
                }
            }
            ListKind::Map(keys) => {
                for item in other.iter() {
                    let item = item?;
                    match self.with_keys(&item, keys) {
                        Some(i) => items[i] = item,
                        None => items.push(item),
                    }
                }
            }
        }
        Ok(Value::List(match self.kind() {
            ListKind::Atomic => Self::Owned(Rc::new(items)),
            kind => Self::Merged(Rc::new(items), kind),
        }))
    }
}

fn out_of_bounds(index: usize) -> Error {
    Error::new(format!("index out of bounds: {index}"))
}

fn same_member<'a>(a: &Value<'a>, b: &Value<'a>, key: &str) -> bool {
    let member = |value: &Value<'a>| match value {
        Value::Map(map) => map.field(key).and_then(Result::ok),
        _ => None,
    };
    match (member(a), member(b)) {
        (Some(a), Some(b)) => a.equals(&b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

impl<'a> Key<'a> {
    /// The key that a value is; `None` for what cannot be one.
    pub(crate) fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(n) => Self::Int(i128::from(*n)),
            Value::Uint(n) => Self::Int(i128::from(*n)),
            Value::Double(n) if n.fract() == 0.0 && n.abs() < 1e19 => Self::Int(*n as i128),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }
}

impl<'a> Map<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Owned(map) | Self::Total(map) => map.len(),
            Self::Json(map, _) => map.len(),
        }
    }

    /// The field or the entry of a name; `None` if there is none.
    pub(crate) fn field(&self, name: &str) -> Option<Evaluated<'a>> {
        match self {
            Self::Owned(map) => {
                let key = Key::String(Text::Owned(name.into()));
                map.get(&key).map(|(_, value)| Ok(value.clone()))
            }
            Self::Total(map) => {
                let found = map.get(&Key::String(Text::Owned(name.into()))).map(|(_, value)| value.clone());
                Some(Ok(found.unwrap_or_else(|| Value::Map(Self::Owned(Rc::default())))))
            }
            Self::Json(map, schema) => match &schema.shape {
                Shape::Object(object) => {
                    // A field that is null is as good as absent.
                    let field = object.find(name)?;
                    map.get(&field.name).filter(|json| !json.is_null()).map(|json| view(json, &field.schema))
                }
                Shape::Map(value) => map.get(name).map(|json| view(json, value)),
                _ => map.get(name).map(|json| view(json, &Schema::ANY)),
            },
        }
    }

    pub(crate) fn find(&self, key: &Value<'a>) -> Option<Evaluated<'a>> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name),
            (Self::Owned(map), key) => map.get(&Key::of(key)?).map(|(_, value)| Ok(value.clone())),
            (Self::Json(..) | Self::Total(_), _) => None,
        }
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &Value<'a>) -> bool {
        match self {
            Self::Total(map) => Key::of(key).is_some_and(|key| map.contains_key(&key)),
            _ => self.find(key).is_some(),
        }
    }

    /// Its values, without those that do not fit their schema.
    pub fn values(&self) -> Vec<Value<'a>> {
        self.entries().into_iter().filter_map(|(_, value)| value.ok()).collect()
    }

    /// Keys with their values; of an object with fields, those its schema names.
    pub(crate) fn entries(&self) -> Vec<(Value<'a>, Evaluated<'a>)> {
        match self {
            Self::Owned(map) | Self::Total(map) => {
                map.values().map(|(key, value)| (key.clone(), Ok(value.clone()))).collect()
            }
            Self::Json(map, schema) => {
                let names: Vec<&'a str> = match &schema.shape {
                    Shape::Object(object) => object.fields.keys().map(String::as_str).collect(),
                    _ => map.keys().map(String::as_str).collect(),
                };
                names.into_iter().filter_map(|name| Some((Value::from(name), self.field(name)?))).collect()
            }
        }
    }

    /// Fields that no schema names count only where both sides have them.
    fn equals(&self, other: &Self) -> bool {
        let unknown_differ = || match (self, other) {
            (Self::Json(a, schema), Self::Json(b, _)) => match &schema.shape {
                Shape::Object(object) => a.iter().any(|(name, value)| {
                    let known = crate::escape::escape(name).is_some_and(|name| object.fields.contains_key(&name));
                    !known && b.get(name).is_some_and(|other| other != value)
                }),
                _ => false,
            },
            _ => false,
        };
        let same = |(key, value): (Value<'a>, Evaluated<'a>)| match (value, other.find(&key)) {
            (Ok(a), Some(Ok(b))) => a.equals(&b),
            _ => false,
        };
        self.len() == other.len() && self.entries().into_iter().all(same) && !unknown_differ()
    }
}
