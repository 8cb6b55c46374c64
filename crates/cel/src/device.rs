//! What selectors of devices see: one variable, `device`, as `k8s.io/dynamic-resource-allocation/cel` declares it.

use std::collections::BTreeMap;
use std::rc::Rc;

use skiff_meta::Quantity;

use crate::library::semver::Semver;
use crate::value::{Key, Map, Special, Text};
use crate::{Budget, Env, Error, Library, Program, Type, Value};

/// Most that one evaluation of a selector may cost.
const LIMIT: u64 = 1_000_000;

/// An attribute of a device.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Attribute<'a> {
    Int(i64),
    Bool(bool),
    Text(&'a str),
    /// A semantic version.
    Version(&'a str),
}

/// A device. Names without a domain belong to its driver's.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a, A, C> {
    /// The driver's name.
    pub driver: &'a str,
    /// Whether several claims may share it.
    pub shareable: bool,
    /// Its attributes; `None` is of a kind that nobody knows.
    pub attributes: A,
    /// How much it has of what.
    pub capacity: C,
}

/// The environment of a selector.
pub fn env() -> Env {
    let by_name = |value: Type| Type::map(Type::String, Type::map(Type::String, value));
    let fields = [
        ("driver", Type::String),
        ("attributes", by_name(Type::Dyn)),
        ("capacity", by_name(Type::Library(Library::Quantity))),
        ("allowMultipleAllocations", Type::Bool),
    ];
    let device = Type::object("kubernetes.DRADevice", fields.map(|(name, ty)| (name.to_owned(), ty)));
    Env::new().with("device", device).with_bindings()
}

/// Whether a selector may evaluate to this: a truth value, or an attribute that may be one.
pub fn is_verdict(output: &Type) -> bool {
    matches!(output, Type::Bool | Type::Dyn)
}

/// Whether a selector, compiled in [`env`], selects the device.
///
/// # Errors
/// Why that cannot be told: an attribute that is not there, a result that is no truth value.
pub fn selects<'a, A, C>(program: &'a Program, device: Device<'a, A, C>) -> Result<bool, Error>
where
    A: Iterator<Item = (&'a str, Option<Attribute<'a>>)>,
    C: Iterator<Item = (&'a str, Quantity)>,
{
    let (mut attributes, mut capacity) = (Domains::default(), Domains::default());
    for (name, attribute) in device.attributes {
        let value = match attribute {
            Some(Attribute::Int(number)) => Value::Int(number),
            Some(Attribute::Bool(flag)) => Value::Bool(flag),
            Some(Attribute::Text(text)) => Value::from(text),
            Some(Attribute::Version(text)) => match Semver::parse(text) {
                Ok(version) => Special::Semver(version).into(),
                Err(why) => return Err(Error::new(format!("attribute {name}: parse semantic version: {why}"))),
            },
            None => return Err(Error::new(format!("attribute {name}: unsupported attribute value"))),
        };
        attributes.put(name, device.driver, value);
    }
    for (name, amount) in device.capacity {
        capacity.put(name, device.driver, Special::Quantity(amount).into());
    }
    let fields = [
        ("driver", Value::from(device.driver)),
        ("attributes", attributes.into_value()),
        ("capacity", capacity.into_value()),
        ("allowMultipleAllocations", Value::Bool(device.shareable)),
    ];
    let value = Value::Struct(Rc::new(("kubernetes.DRADevice", BTreeMap::from(fields))));
    match program.evaluate(&[Some(value)], &mut Budget::new(LIMIT))? {
        Value::Bool(verdict) => Ok(verdict),
        other => {
            let found = other.type_of();
            Err(Error::new(format!("CEL result of type {} could not be converted to bool", found.name())))
        }
    }
}

type Entries<'a> = BTreeMap<Key<'a>, (Value<'a>, Value<'a>)>;

/// Values by domain and name.
#[derive(Default)]
struct Domains<'a>(BTreeMap<&'a str, Entries<'a>>);

impl<'a> Domains<'a> {
    fn put(&mut self, name: &'a str, driver: &'a str, value: Value<'a>) {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        self.0.entry(domain).or_default().insert(key(id), (id.into(), value));
    }

    fn into_value(self) -> Value<'a> {
        let entry = |(domain, entries)| (key(domain), (domain.into(), Value::Map(Map::Owned(Rc::new(entries)))));
        Value::Map(Map::Total(Rc::new(self.0.into_iter().map(entry).collect())))
    }
}

fn key(text: &str) -> Key<'_> {
    Key::String(Text::Borrowed(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_selected() {
        let selects = |expression: &str| {
            let program = env().compile(expression).map_err(|issues| issues.failure())?;
            let attributes = [
                ("model", Some(Attribute::Text("x"))),
                ("cores", Some(Attribute::Int(4))),
                ("other.com/on", Some(Attribute::Bool(true))),
                ("firmware", Some(Attribute::Version("1.2.3"))),
            ];
            let capacity = [("memory", "10Gi".parse().expect("a quantity"))];
            let device = Device {
                driver: "gpu.example.com",
                shareable: false,
                attributes: attributes.into_iter(),
                capacity: capacity.into_iter(),
            };
            super::selects(&program, device).map_err(|error| error.to_string())
        };
        for (expression, expected) in [
            ("device.driver == 'gpu.example.com'", Ok(true)),
            ("device.attributes['gpu.example.com'].model == 'x'", Ok(true)),
            ("device.attributes['gpu.example.com'].cores > 4", Ok(false)),
            ("device.attributes['other.com'].on", Ok(true)),
            ("'gpu.example.com' in device.attributes && !('none.com' in device.attributes)", Ok(true)),
            ("'model' in device.attributes['none.com']", Ok(false)),
            ("device.attributes['none.com'].model == 'x'", Err("no such key: model")),
            (
                "device.attributes['gpu.example.com'].cores",
                Err("CEL result of type int could not be converted to bool"),
            ),
            ("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.2.2'))", Ok(true)),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('10Gi')) >= 0", Ok(true)),
            ("cel.bind(d, device.attributes['gpu.example.com'], d.cores == 4 && d.model == 'x')", Ok(true)),
            ("device.allowMultipleAllocations", Ok(false)),
        ] {
            assert_eq!(selects(expression), expected.map_err(str::to_owned), "{expression}");
        }
    }
}
