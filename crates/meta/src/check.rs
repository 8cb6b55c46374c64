//! Fitting a body to its kind, as Go does by decoding it into a struct and writing it again.
//!
//! Types must be right; unknown fields are told and dropped; null is absent; what Go would not write goes, and what it
//! always writes comes. Structs without a name belong to custom kinds: of them only unknown fields are dropped, since
//! their values are judged by their own schema.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::field::FieldPath;
use crate::quantity::Quantity;
use crate::schema::{Field, Scalar, StructType, Type, TypeRef};
use crate::status::Status;

/// The one type that may be anything but looks at it, and those that may be what they stand in.
const BOOL_OR_SCHEMA: &str = "v1.JSONSchemaPropsOrBool";
const SCHEMAS: [&str; 2] = [BOOL_OR_SCHEMA, "v1.JSONSchemaPropsOrArray"];

/// A value that does not fit; in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Of the wrong type.
    #[error("json: cannot unmarshal {found} into Go {place}of type {expected}")]
    Type {
        /// `string`, `number 1.5`, ...
        found: String,
        /// `struct field DeploymentSpec.spec.replicas ` or `value `.
        place: String,
        /// Go's name of the type.
        expected: String,
        /// What kind of type that is.
        shape: Shape,
        /// Whether it is a number that is not whole.
        fraction: bool,
    },
    /// Text of the wrong form: a quantity, a time, base64.
    #[error("{0}")]
    Form(String),
}

/// Makes `value` fit `ty`. Returns a message for every unknown field, as strict field validation words it.
///
/// # Errors
/// The first value whose own form is wrong, at which Go's decoder gives up; else the first of a wrong type.
pub fn check(value: &mut Value, ty: TypeRef<'_>) -> Result<Vec<String>, Misfit> {
    let mut checker = Checker { unknown: Vec::new(), fields: Vec::new(), within: "", first: None };
    checker.value(value, ty, "", &Way::Root)?;
    checker.first.map_or(Ok(checker.unknown), Err)
}

/// `strict decoding error: ...`, of messages about unknown and duplicate fields.
pub fn strict_message(faults: &[String]) -> String {
    // What a reader of YAML finds is one error of many lines.
    let (lines, fields): (Vec<_>, Vec<_>) = faults.iter().cloned().partition(|fault| fault.starts_with("line "));
    let lines = (!lines.is_empty()).then(|| yaml_message(&lines));
    let all: Vec<String> = lines.into_iter().chain(fields).collect();
    format!("strict decoding error: {}", all.join(", "))
}

/// Lines of a YAML document that say something twice.
pub fn yaml_message(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

/// 400: a body that said what it is, but is not.
pub fn cannot_be_handled(kind: &str, version: &str, as_kind: &str, why: &str) -> Status {
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {as_kind}: {why}"))
}

/// 400: a body that did not even say what it is.
pub fn unrecognized(as_kind: &str, why: &str, body: &[u8]) -> Status {
    const SHOWN: usize = 30;
    let head = &body[..body.len().min(SHOWN)];
    let mut summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if body.len() > SHOWN {
        summary.push_str(" ...");
    }
    Status::bad_request(format!("the object provided is unrecognized (must be of type {as_kind}): {why} ({summary})"))
}

/// What Go calls a value's kind; null has none.
pub fn json_kind(value: &Value) -> Option<&'static str> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    })
}

/// A kind of Go's types, as far as it matters to how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Strings, numbers and booleans, by the name of the type that a named one is made of.
    Plain(&'static str),
    /// Reads JSON itself: quantities, times, ports.
    Own,
    /// A list, or bytes.
    Slice,
    /// A map.
    Map,
    /// A struct, or what is told by its value.
    Struct,
}

impl Shape {
    fn of(ty: TypeRef<'_>) -> Self {
        match ty.get() {
            Type::Scalar(Scalar::Bytes) | Type::List { .. } => Self::Slice,
            Type::Scalar(
                Scalar::Quantity | Scalar::IntOrString | Scalar::Time | Scalar::MicroTime | Scalar::Duration,
            ) => Self::Own,
            Type::Scalar(plain) => Self::Plain(plain.go_type()),
            Type::Map { .. } => Self::Map,
            Type::Struct(_) | Type::Any => Self::Struct,
        }
    }
}

/// The way to a value. A path is made of it only where something is told.
enum Way<'p> {
    Root,
    Member(&'p Way<'p>, &'p str),
    Item(&'p Way<'p>, usize),
}

impl Way<'_> {
    fn path(&self) -> FieldPath {
        match self {
            Self::Root => FieldPath::root(),
            Self::Member(holder, name) => holder.path().child(name),
            Self::Item(list, index) => list.path().index(*index),
        }
    }
}

struct Checker<'a> {
    unknown: Vec<String>,
    /// Names of the fields on the way; indices and keys of maps do not count.
    fields: Vec<&'a str>,
    /// The innermost Go struct on the way.
    within: &'a str,
    /// The first value of a wrong type.
    first: Option<Misfit>,
}

impl<'a> Checker<'a> {
    fn place(&self) -> String {
        match self.fields.is_empty() {
            true => "value ".to_owned(),
            false => format!("struct field {}.{} ", self.within, self.fields.join(".")),
        }
    }
    fn misfit(&self, found: &Value, ty: TypeRef<'_>, named: &str) -> Misfit {
        let fraction = found.as_f64().is_some_and(|n| n.fract() != 0.0);
        let found = match (found, ty.get()) {
            (Value::Number(n), Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString)) => {
                format!("number {n}")
            }
            _ => json_kind(found).unwrap_or("null").to_owned(),
        };
        let place = self.place();
        // Types with a form of their own read a simpler one first.
        let expected = match ty.get() {
            Type::Scalar(Scalar::IntOrString) => "int32".to_owned(),
            Type::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::Duration) => "string".to_owned(),
            _ => ty.go_type(named),
        };
        Misfit::Type { found, place, expected, shape: Shape::of(ty), fraction }
    }

    fn value(&mut self, value: &mut Value, ty: TypeRef<'a>, named: &str, path: &Way<'_>) -> Result<(), Misfit> {
        match (ty.get(), &mut *value) {
            (Type::Any, Value::String(_) | Value::Number(_) | Value::Array(_)) if named == BOOL_OR_SCHEMA => {
                Err(Misfit::Form("boolean or JSON schema expected".to_owned()))
            }
            (Type::Any, _) | (_, Value::Null) => Ok(()),
            (Type::Struct(s), Value::Object(members)) if s.name.is_empty() => self.custom(members, s, ty, path),
            (Type::Struct(s), Value::Object(members)) => self.members(members, s, ty, path),
            (Type::Struct(s), _) if s.name.is_empty() => Ok(()),
            (Type::Map { value: of, .. }, Value::Object(members)) => {
                let named = named.strip_prefix("map[string]").unwrap_or_default();
                for (key, member) in members {
                    self.fill_null(member, ty.to(*of));
                    self.value(member, ty.to(*of), named, &Way::Member(path, key))?;
                }
                Ok(())
            }
            (Type::List { item, .. }, Value::Array(items)) => {
                let named = named.strip_prefix("[]").unwrap_or_default();
                for (i, item_value) in items.iter_mut().enumerate() {
                    self.fill_null(item_value, ty.to(*item));
                    self.value(item_value, ty.to(*item), named, &Way::Item(path, i))?;
                }
                Ok(())
            }
            (Type::Scalar(scalar), _) if self.typed() => self.scalar(value, *scalar, ty, named),
            (_, found) if self.typed() => {
                let misfit = self.misfit(found, ty, named);
                self.note(misfit)
            }
            _ => Ok(()),
        }
    }
    /// Go's decoder goes on after a wrong type, but not after what types say that read JSON themselves.
    fn note(&mut self, misfit: Misfit) -> Result<(), Misfit> {
        if matches!(misfit, Misfit::Type { shape: Shape::Own, .. }) {
            return Err(misfit);
        }
        self.first.get_or_insert(misfit);
        Ok(())
    }

    /// Null among items is no item: Go decodes it to what an item is that nobody has filled in.
    fn fill_null(&self, value: &mut Value, ty: TypeRef<'_>) {
        if !value.is_null() || !self.typed() {
            return;
        }
        *value = match ty.get() {
            Type::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
            Type::Scalar(Scalar::Bool) => false.into(),
            Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float64 | Scalar::IntOrString) => 0.into(),
            Type::Scalar(Scalar::Quantity) => "0".into(),
            Type::Struct(s) if !s.name.is_empty() => Value::Object(Map::new()),
            _ => return,
        };
    }

    /// Whether Go knows the types here: not in custom kinds, but in the metadata of their objects.
    fn typed(&self) -> bool {
        !self.within.is_empty() || self.fields.is_empty()
    }

    fn custom(
        &mut self,
        members: &mut Map<String, Value>,
        s: &'a StructType,
        ty: TypeRef<'a>,
        path: &Way<'_>,
    ) -> Result<(), Misfit> {
        self.drop_unknown(members, s, path);
        for (name, member) in members.iter_mut() {
            if let Some(field) = s.field(name) {
                self.field(member, field, "", ty, path)?;
            }
        }
        Ok(())
    }

    fn members(
        &mut self,
        members: &mut Map<String, Value>,
        s: &'a StructType,
        ty: TypeRef<'a>,
        path: &Way<'_>,
    ) -> Result<(), Misfit> {
        self.drop_unknown(members, s, path);
        for (name, member) in members.iter_mut() {
            if let Some(field) = s.field(name) {
                self.field(member, field, s.go_name(), ty, path)?;
            }
        }
        // An empty list of managed fields asks to forget them, and what may be anything may be an empty list.
        let asks = |name: &str, member: &Value| {
            let own = matches!(*self.fields, ["metadata"]);
            own && name == "managedFields" && member.is_array()
                || s.field(name).is_some_and(|field| is_free(member, ty.to(field.ty)))
        };
        members
            .retain(|name, member| s.field(name).is_none_or(|field| is_written(member, field)) || asks(name, member));
        for (_, member) in members.iter_mut().filter(|(name, member)| is_hollow(member) && !asks(name, member)) {
            // Protobuf, in which upstream keeps objects, cannot tell none from nothing.
            *member = Value::Null;
        }
        for field in &s.fields {
            if let Some(zero) = always_written(field, ty.to(field.ty))
                && !members.contains_key(&field.name)
            {
                members.insert(field.name.clone(), zero);
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        member: &mut Value,
        field: &'a Field,
        within: &'a str,
        ty: TypeRef<'a>,
        path: &Way<'_>,
    ) -> Result<(), Misfit> {
        let outer = std::mem::replace(&mut self.within, within);
        self.fields.push(&field.name);
        let path = Way::Member(path, &field.name);
        let result = if member.is_object() && SCHEMAS.contains(&field.go.named) {
            // A schema within a schema, which reads itself, and not strictly.
            let told = self.unknown.len();
            let result = self.value(member, ty, "", &path);
            self.unknown.truncate(told);
            result
        } else {
            self.value(member, ty.to(field.ty), field.go.named, &path)
        };
        self.fields.pop();
        self.within = outer;
        result
    }

    fn drop_unknown(&mut self, members: &mut Map<String, Value>, s: &StructType, path: &Way<'_>) {
        if s.open {
            return;
        }
        members.retain(|name, _| {
            let known = s.field(name).is_some();
            if !known {
                self.unknown.push(format!("unknown field {:?}", Way::Member(path, name).path().as_str()));
            }
            known
        });
    }

    fn scalar(&mut self, value: &mut Value, scalar: Scalar, ty: TypeRef<'_>, named: &str) -> Result<(), Misfit> {
        let fits = match (scalar, &*value) {
            (Scalar::String, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) => true,
            (Scalar::Int32, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Scalar::IntOrString, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Scalar::IntOrString, Value::String(_)) => true,
            (Scalar::Int64, Value::Number(n)) => n.is_i64(),
            (Scalar::Float64, Value::Number(_)) => true,
            (Scalar::Quantity, found) => {
                let quantity = Quantity::from_json(found).map_err(|e| Misfit::Form(e.to_string()))?;
                *value = Value::String(quantity.to_string());
                return Ok(());
            }
            (Scalar::Bytes, Value::String(text)) => return check_base64(text).or_else(|misfit| self.note(misfit)),
            (Scalar::Bytes, Value::Array(items)) => match items.iter().map(|item| byte(item).ok_or(item)).collect() {
                Ok::<Vec<u8>, _>(bytes) => {
                    *value = Value::String(base64::engine::general_purpose::STANDARD.encode(bytes));
                    return Ok(());
                }
                Err(item) => {
                    let misfit = self.no_byte(item);
                    return self.note(misfit);
                }
            },
            (Scalar::Time, Value::String(text)) => {
                *value = Value::String(time(text)?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                return Ok(());
            }
            (Scalar::MicroTime, Value::String(text)) => {
                *value = Value::String(micro_time(text)?.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
                return Ok(());
            }
            (Scalar::Duration, Value::String(_)) => true,
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let misfit = self.misfit(value, ty, named);
        self.note(misfit)
    }
    /// Of a list that shall be bytes, each item must be one.
    fn no_byte(&self, item: &Value) -> Misfit {
        let found = match item {
            Value::Number(n) => format!("number {n}"),
            other => json_kind(other).unwrap_or("null").to_owned(),
        };
        Misfit::Type { found, place: self.place(), expected: "uint8".to_owned(), shape: Shape::Slice, fraction: false }
    }
}

/// Null is a byte that nobody has filled in.
fn byte(item: &Value) -> Option<u8> {
    if item.is_null() { Some(0) } else { u8::try_from(item.as_u64()?).ok() }
}

fn check_base64(text: &str) -> Result<(), Misfit> {
    let lines: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match base64::engine::general_purpose::STANDARD.decode(&lines) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => lines.len() / 4 * 4,
            };
            Err(Misfit::Form(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn time(text: &str) -> Result<Timestamp, Misfit> {
    text.parse().map_err(|_| no_time(text, "2006-01-02T15:04:05Z07:00", text, "2006"))
}

/// Go wants just six digits after the seconds here.
fn micro_time(text: &str) -> Result<Timestamp, Misfit> {
    const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
    let parsed = text.parse().map_err(|_| no_time(text, LAYOUT, text, "2006"))?;
    let rest = text.get("2006-01-02T15:04:05".len()..).unwrap_or_default();
    let digits = rest.strip_prefix('.').map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    if digits == Some(6) { Ok(parsed) } else { Err(no_time(text, LAYOUT, rest, ".000000")) }
}

fn no_time(text: &str, layout: &str, rest: &str, part: &str) -> Misfit {
    Misfit::Form(format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}"))
}

/// Whether this may be anything: of that, only nothing is nothing.
fn is_free(value: &Value, ty: TypeRef<'_>) -> bool {
    matches!(ty.get(), Type::Any) && !value.is_null()
}

/// Whether Go writes the field with this value.
fn is_written(value: &Value, field: &Field) -> bool {
    let omits = field.go.omit_empty && !field.go.pointer;
    match value {
        Value::Null => false,
        Value::Array(items) => !(omits && items.is_empty()),
        Value::Object(members) => !(omits && members.is_empty() && !is_in_place(field)),
        Value::String(text) => !(omits && text.is_empty()),
        Value::Bool(value) => !omits || *value,
        Value::Number(number) => !omits || number.as_f64() != Some(0.0),
    }
}

fn is_hollow(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// Whether Go holds the struct in this field in place rather than by pointer; it then writes it always.
fn is_in_place(field: &Field) -> bool {
    field.default.as_ref().is_some_and(Value::is_object)
}

/// What Go writes where nothing was given.
fn always_written(field: &Field, ty: TypeRef<'_>) -> Option<Value> {
    if is_in_place(field) {
        return Some(zero_struct(ty));
    }
    if field.go.pointer {
        return (!field.go.omit_empty).then_some(Value::Null);
    }
    match ty.get() {
        Type::Scalar(Scalar::Quantity) => Some("0".into()),
        Type::Scalar(Scalar::IntOrString) => Some(0.into()),
        // The one field that is left out when zero although Go holds it in place.
        Type::Scalar(Scalar::Time | Scalar::MicroTime) => (field.name != "creationTimestamp").then_some(Value::Null),
        _ if field.go.omit_empty => None,
        Type::Scalar(Scalar::String) => Some("".into()),
        Type::Scalar(Scalar::Bool) => Some(false.into()),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float64) => Some(0.into()),
        Type::Scalar(Scalar::Bytes) | Type::List { .. } | Type::Map { .. } => Some(Value::Null),
        Type::Scalar(Scalar::Duration) => Some("0s".into()),
        Type::Struct(_) | Type::Any => None,
    }
}

/// What Go writes of a struct nobody has filled in.
pub fn zero_struct(ty: TypeRef<'_>) -> Value {
    let Type::Struct(s) = ty.get() else { return Value::Object(Map::new()) };
    if s.name.is_empty() {
        return Value::Object(Map::new());
    }
    let zero = |field: &Field| Some((field.name.clone(), always_written(field, ty.to(field.ty))?));
    Value::Object(s.fields.iter().filter_map(zero).collect())
}

/// A tree as `%+v` prints the maps and slices it is decoded into: `map[spec:map[replicas:2]]`.
pub fn plus_v(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plus_v).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{name}:{}", plus_v(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

/// The same as `%#v` prints it: `map[string]interface {}{"replicas":2}`.
pub fn sharp_v(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(sharp_v).collect::<Vec<_>>().join(", "))
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<String> =
                members.into_iter().map(|(name, value)| format!("{name:?}:{}", sharp_v(value))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// The type of a decoded value, as `%T` prints it.
pub fn go_type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests;
