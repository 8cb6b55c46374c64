//! What an object of a kind looks like: one graph of types for built-in and custom kinds alike.
//!
//! Built-in kinds get theirs from the tables of facts in `skiff-api`, custom kinds from the structural schema of their
//! CustomResourceDefinition. Strategic merge, server-side apply, pruning, defaulting, field validation, the protobuf
//! transcoder and the published OpenAPI all walk this one graph, and none of them knows which kind of kind it is.

use std::sync::Arc;

use serde_json::Value;

/// Index of a type in its [`Schema`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

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
#[derive(Clone, Debug)]
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
    /// Number in the protobuf message; 0 when the kind has no protobuf form.
    pub proto: u32,
}

/// Strategic merge facts of a field (`x-kubernetes-patch-strategy`, `-patch-merge-key`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchFacts {
    /// Lists merge rather than replace.
    pub merge: bool,
    /// `retainKeys`.
    pub retain_keys: bool,
    /// The key that tells objects in a merging list apart; empty for lists of scalars.
    pub merge_key: String,
}

impl StructType {
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
