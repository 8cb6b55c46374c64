//! What an object of a kind looks like: one graph of types for built-in and custom kinds alike.
//!
//! Built-in kinds get theirs from the tables of facts in `skiff-api`, custom kinds from the structural schema of their
//! CustomResourceDefinition. Strategic merge, server-side apply, pruning, defaulting, field validation, the protobuf
//! transcoder and the published OpenAPI all walk this one graph, and none of them knows which kind of kind it is.

use std::sync::Arc;

use serde_json::Value;

/// Index of a type in its [`Schema`]; the default one is an unknown type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

impl Default for TypeId {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

/// A graph of types; recursive types refer to themselves by id.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
}

/// One type.
#[derive(Clone, Debug)]
pub enum Type {
    /// A leaf.
    Scalar(Scalar),
    /// A list.
    List {
        /// Type of the items.
        item: TypeId,
        /// How lists merge under server-side apply.
        list: ListType,
    },
    /// A map from strings.
    Map {
        /// Type of the values.
        value: TypeId,
        /// Whether server-side apply owns it as a whole.
        atomic: bool,
    },
    /// A struct with named fields.
    Struct(Box<StructType>),
    /// Anything at all (RawExtension, FieldsV1, free-form parts of custom kinds); its shape is taken from the value.
    Any,
}

/// Leaves. All but numbers and booleans are strings in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// UTF-8 text.
    String,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Float64,
    /// `true` or `false`.
    Bool,
    /// Base64 in JSON.
    Bytes,
    /// `resource.Quantity`; a number is accepted too.
    Quantity,
    /// Integer or string.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Text like `1m30s`.
    Duration,
}

impl Scalar {
    /// The type as Go prints it.
    pub fn go_type(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float64 => "float64",
            Self::Bool => "bool",
            Self::Bytes => "[]uint8",
            Self::Quantity => "resource.Quantity",
            Self::IntOrString => "intstr.IntOrString",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::Duration => "v1.Duration",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Owned and replaced as a whole (also the default where nothing is said).
    Atomic,
    /// Unique scalars.
    Set,
    /// Objects, told apart by these keys.
    Map(Vec<String>),
}

/// A struct.
#[derive(Clone, Debug, Default)]
pub struct StructType {
    /// Full name in OpenAPI, `io.k8s.api.core.v1.PodSpec`; empty for anonymous ones of custom kinds.
    pub name: String,
    /// Fields, sorted by JSON name.
    pub fields: Vec<Field>,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// Whether unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
}

/// One field of a struct.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// JSON name.
    pub name: String,
    /// Its type.
    pub ty: TypeId,
    /// Listed as required in OpenAPI.
    pub required: bool,
    /// Default of the schema, where it has one.
    pub default: Option<Value>,
    /// Strategic merge facts.
    pub patch: PatchFacts,
    /// Number in the protobuf message; 0 when the field has no protobuf form.
    pub proto: u32,
    /// Numbers of the messages within the struct's own that hold the field, outermost first: JSON shows the fields of
    /// embedded Go structs beside the others, protobuf does not.
    pub proto_parents: Vec<u32>,
    /// How upstream's Go code holds it.
    pub go: GoFacts,
}

/// How upstream's Go code holds a field: errors about JSON name Go types, and whether zero is told from absent is
/// seen in what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoFacts {
    /// Named type such as `v1.RestartPolicy`, `v1.ResourceList` or `[]v1.FinalizerName` where the shape alone does not
    /// tell it; empty otherwise. Ask [`TypeRef::go_type`].
    pub named: &'static str,
    /// A pointer: absent and zero differ.
    pub pointer: bool,
    /// `omitempty` or `omitzero`: absent when zero (and not a pointer). Fields of neither kind are always written.
    pub omit_empty: bool,
}

/// Strategic merge facts of a field (`x-kubernetes-patch-strategy`, `-patch-merge-key`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchFacts {
    /// Lists merge rather than replace.
    pub merge: bool,
    /// Structs replace rather than merge.
    pub replace: bool,
    /// `retainKeys`.
    pub retain_keys: bool,
    /// The key that tells objects in a merging list apart; empty for lists of scalars.
    pub merge_key: String,
}

impl StructType {
    /// Name of the Go struct, `PodSpec`; empty for anonymous ones.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
    /// Name of the Go struct with its package, `v1.PodSpec`; empty for anonymous ones.
    pub fn go_type(&self) -> &str {
        let dot = self.name.rmatch_indices('.').nth(1);
        dot.map_or(&*self.name, |(at, _)| &self.name[at + 1..])
    }
    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_str().cmp(name)).ok().map(|i| &self.fields[i])
    }
}

impl Schema {
    /// Adds a type and returns its id.
    pub fn add(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId(u32::try_from(self.types.len() - 1).unwrap_or(u32::MAX))
    }
    /// Replaces a type added before, to close a recursion.
    pub fn set(&mut self, id: TypeId, ty: Type) {
        if let Some(slot) = self.types.get_mut(id.0 as usize) {
            *slot = ty;
        }
    }
    /// The type with this id; [`Type::Any`] for an id of another schema.
    pub fn get(&self, id: TypeId) -> &Type {
        self.types.get(id.0 as usize).unwrap_or(&Type::Any)
    }
    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }
    /// Whether there is no type at all.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
    /// A place in the graph to walk on from.
    pub fn at(&self, id: TypeId) -> TypeRef<'_> {
        TypeRef { schema: self, id }
    }
}

/// A type together with its graph: cheap to copy, easy to walk.
#[derive(Clone, Copy, Debug)]
pub struct TypeRef<'a> {
    schema: &'a Schema,
    id: TypeId,
}

static ANY: Schema = Schema { types: Vec::new() };

impl<'a> TypeRef<'a> {
    /// A type about which nothing is known.
    pub fn any() -> TypeRef<'static> {
        TypeRef { schema: &ANY, id: TypeId(u32::MAX) }
    }
    /// The type itself.
    pub fn get(self) -> &'a Type {
        self.schema.get(self.id)
    }
    /// Its id.
    pub fn id(self) -> TypeId {
        self.id
    }
    /// Another type of the same graph.
    pub fn to(self, id: TypeId) -> TypeRef<'a> {
        TypeRef { schema: self.schema, id }
    }
    /// The type of member `name`: a struct's field, a map's value; [`Type::Any`] below anything open or unknown.
    pub fn member(self, name: &str) -> TypeRef<'a> {
        match self.get() {
            Type::Struct(s) => s.field(name).map_or(TypeRef::any(), |f| self.to(f.ty)),
            Type::Map { value, .. } => self.to(*value),
            _ => TypeRef::any(),
        }
    }
    /// The type of a list's items.
    pub fn item(self) -> TypeRef<'a> {
        match self.get() {
            Type::List { item, .. } => self.to(*item),
            _ => TypeRef::any(),
        }
    }
    /// The type as Go prints it, pointers left out: `int32`, `[]v1.Container`, `map[string]string`. `named` is
    /// [`GoFacts::named`] of the field that has this type, and empty elsewhere.
    pub fn go_type(self, named: &str) -> String {
        if !named.is_empty() {
            return named.to_owned();
        }
        match self.get() {
            Type::Scalar(scalar) => scalar.go_type().to_owned(),
            Type::List { item, .. } => format!("[]{}", self.to(*item).go_type("")),
            Type::Map { value, .. } => format!("map[string]{}", self.to(*value).go_type("")),
            Type::Struct(s) => s.go_type().to_owned(),
            Type::Any => "interface {}".to_owned(),
        }
    }
    /// The field `name` of a struct.
    pub fn field(self, name: &str) -> Option<&'a Field> {
        match self.get() {
            Type::Struct(s) => s.field(name),
            _ => None,
        }
    }
}

/// The schema of one kind: a graph and the type to start from.
#[derive(Clone, Debug)]
pub struct KindSchema {
    schema: Arc<Schema>,
    root: TypeId,
}

impl KindSchema {
    /// The kind whose type is `root` in `schema`.
    pub fn new(schema: Arc<Schema>, root: TypeId) -> Self {
        Self { schema, root }
    }
    /// Where to start walking.
    pub fn root(&self) -> TypeRef<'_> {
        self.schema.at(self.root)
    }
    /// The whole graph.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_names_of_types() {
        let mut schema = Schema::default();
        let name = "io.k8s.api.core.v1.Container".to_owned();
        let container = schema.add(Type::Struct(Box::new(StructType { name, ..StructType::default() })));
        let list = schema.add(Type::List { item: container, list: ListType::Atomic });
        let map = schema.add(Type::Map { value: list, atomic: false });
        assert_eq!(schema.at(map).go_type(""), "map[string][]v1.Container");
        assert_eq!(schema.at(map).go_type("v1.Named"), "v1.Named");
        assert_eq!(TypeRef::any().go_type(""), "interface {}");
        let Type::Struct(s) = schema.get(container) else { panic!("a struct") };
        assert_eq!((s.go_name(), s.go_type()), ("Container", "v1.Container"));
    }
}
