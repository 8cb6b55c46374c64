//! Types of expressions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type, in the checker's eyes.
#[derive(Clone, Debug)]
pub enum Type {
    /// Anything; checked when evaluated.
    Dyn,
    /// Of what is faulty; fits everything, so that one fault is told once.
    Error,
    /// `null`.
    Null,
    /// `bool`.
    Bool,
    /// `int`.
    Int,
    /// `uint`.
    Uint,
    /// `double`.
    Double,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// `google.protobuf.Duration`.
    Duration,
    /// `list(T)`.
    List(Arc<Type>),
    /// `map(K, V)`.
    Map(Arc<(Type, Type)>),
    /// `optional_type(T)`.
    Optional(Arc<Type>),
    /// The type of a type, of which, if that is known.
    Type(Option<Arc<Type>>),
    /// An object with known fields.
    Struct(Arc<Struct>),
    /// A type of one of Kubernetes' libraries.
    Library(Library),
    /// A variable of the checker.
    Param(u32),
}

/// An object's type.
#[derive(Debug)]
pub struct Struct {
    /// Its name, by which types are told apart.
    pub name: String,
    /// Its fields, by escaped name.
    pub fields: BTreeMap<String, Type>,
    /// Whether it has every field, each of any type.
    pub open: bool,
}

/// The types of Kubernetes' libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Library {
    Quantity,
    Ip,
    Cidr,
    Url,
    Semver,
    Format,
    Authorizer,
    PathCheck,
    GroupCheck,
    ResourceCheck,
    Decision,
}

impl Library {
    /// Name in upstream, also of the value that stands for the type in an expression.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantity => "kubernetes.Quantity",
            Self::Ip => "net.IP",
            Self::Cidr => "net.CIDR",
            Self::Url => "kubernetes.URL",
            Self::Semver => "kubernetes.Semver",
            Self::Format => "kubernetes.NamedFormat",
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::PathCheck => "kubernetes.authorization.PathCheck",
            Self::GroupCheck => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Self::Decision => "kubernetes.authorization.Decision",
        }
    }

    const ALL: [Self; 11] = [
        Self::Quantity,
        Self::Ip,
        Self::Cidr,
        Self::Url,
        Self::Semver,
        Self::Format,
        Self::Authorizer,
        Self::PathCheck,
        Self::GroupCheck,
        Self::ResourceCheck,
        Self::Decision,
    ];
}

impl Type {
    /// `list(item)`.
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }
    /// `map(key, value)`.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }
    /// `optional_type(value)`.
    pub fn optional(value: Type) -> Self {
        Self::Optional(Arc::new(value))
    }
    /// An object with these fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Self {
        let fields = fields.into_iter().collect();
        Self::Struct(Arc::new(Struct { name: name.to_owned(), fields, open: false }))
    }

    /// The type that a name in an expression stands for.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let dynamic = || Self::Dyn;
        Some(match name {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::String,
            "bytes" => Self::Bytes,
            "null_type" => Self::Null,
            "list" => Self::list(dynamic()),
            "map" => Self::map(dynamic(), dynamic()),
            "type" => Self::Type(None),
            "optional_type" => Self::optional(dynamic()),
            "google.protobuf.Timestamp" => Self::Timestamp,
            "google.protobuf.Duration" => Self::Duration,
            name => Self::Library(Library::ALL.into_iter().find(|l| l.name() == name)?),
        })
    }

    /// Name of the type without its parameters, as `type(x)` prints.
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "error",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Struct(s) => &s.name,
            Self::Library(l) => l.name(),
            Self::Param(_) => "dyn",
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// The type within an optional, or the type itself; and whether it was optional.
    pub(crate) fn unwrapped(&self) -> (Type, bool) {
        match self {
            Self::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        }
    }

    /// Of a size that is known without looking at the value.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Struct(a), Self::Struct(b)) => a.name == b.name,
            (Self::Library(a), Self::Library(b)) => a == b,
            (Self::Param(a), Self::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

/// As faults print it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type(Some(inner)) => write!(f, "type({inner})"),
            Self::Param(n) => write!(f, "_var{n}"),
            other => f.write_str(other.name()),
        }
    }
}
