//! Numbers of both documents' members (upstream: `gnostic-models`, `OpenAPIv2.proto` and `OpenAPIv3.proto`), of those
//! that our documents and custom kinds' schemas can have.

use serde_json::Value;

use super::Form::{Any, Choice, Flag, In, Integer, List, Map, Message as Of, Number, Text};
use super::{Form, Message};

const TEXTS: Form = List(&Text);
/// Nothing under these names, only extensions or pairs.
const NONE: &[(&str, u32, Form)] = &[];

/// `Document` of the older form.
pub(in super::super) static V2: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Of(&Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7, others: None })),
        ("paths", 8, Of(&Message { fields: NONE, extensions: 1, others: Some((2, Of(&V2_PATH))) })),
        ("definitions", 9, Map(&Of(&V2_SCHEMA))),
        ("security", 12, List(&Map(&In(1, &TEXTS)))),
        ("securityDefinitions", 13, Map(&In(2, &Of(&V2_KEY)))),
    ],
    extensions: 16,
    others: None,
};

static V2_KEY: Message =
    Message { fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text)], extensions: 5, others: None };

static V2_PATH: Message = Message {
    fields: &[
        ("get", 2, Of(&V2_OPERATION)),
        ("put", 3, Of(&V2_OPERATION)),
        ("post", 4, Of(&V2_OPERATION)),
        ("delete", 5, Of(&V2_OPERATION)),
        ("options", 6, Of(&V2_OPERATION)),
        ("head", 7, Of(&V2_OPERATION)),
        ("patch", 8, Of(&V2_OPERATION)),
        ("parameters", 9, List(&Choice(v2_parameter))),
    ],
    extensions: 10,
    others: None,
};

static V2_OPERATION: Message = Message {
    fields: &[
        ("tags", 1, TEXTS),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, List(&Choice(v2_parameter))),
        ("responses", 9, Of(&Message { fields: NONE, extensions: 2, others: Some((1, In(1, &Of(&V2_RESPONSE)))) })),
        ("schemes", 10, TEXTS),
    ],
    extensions: 13,
    others: None,
};

static V2_RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, In(1, &Of(&V2_SCHEMA)))], extensions: 5, others: None };

fn v2_parameter(parameter: &Value) -> (&'static [u32], &'static Form) {
    match parameter["in"].as_str() {
        Some("body") => (&[1, 1], &V2_BODY),
        Some("path") => (&[1, 2, 4], &V2_IN_PATH),
        _ => (&[1, 2, 3], &V2_IN_QUERY),
    }
}

static V2_BODY: Form = Of(&Message {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, Of(&V2_SCHEMA)),
    ],
    extensions: 6,
    others: None,
});

static V2_IN_PATH: Form = Of(&Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
    others: None,
});

static V2_IN_QUERY: Form = Of(&Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
    others: None,
});

static V2_SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, TEXTS),
        ("enum", 20, List(&Any)),
        ("additionalProperties", 21, Choice(v2_additional)),
        ("type", 22, In(1, &TEXTS)),
        ("items", 23, In(1, &Of(&V2_SCHEMA))),
        ("allOf", 24, List(&Of(&V2_SCHEMA))),
        ("properties", 25, Map(&Of(&V2_SCHEMA))),
        ("example", 30, Any),
    ],
    extensions: 31,
    others: None,
};

fn v2_additional(value: &Value) -> (&'static [u32], &'static Form) {
    static OWN: Form = Of(&V2_SCHEMA);
    if value.is_boolean() { (&[2], &Flag) } else { (&[1], &OWN) }
}

/// `Document` of the newer form.
pub(in super::super) static V3: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, Of(&Message { fields: &[("title", 1, Text), ("version", 6, Text)], extensions: 7, others: None })),
        ("paths", 4, Of(&Message { fields: NONE, extensions: 2, others: Some((1, Of(&V3_PATH))) })),
        ("components", 5, Of(&V3_COMPONENTS)),
    ],
    extensions: 9,
    others: None,
};

static V3_COMPONENTS: Message = Message {
    fields: &[("schemas", 1, Map(&V3_SCHEMA)), ("securitySchemes", 7, Map(&In(1, &Of(&V3_KEY))))],
    extensions: 10,
    others: None,
};

static V3_KEY: Message =
    Message { fields: &[("type", 1, Text), ("name", 3, Text), ("in", 4, Text)], extensions: 9, others: None };

static V3_PATH: Message = Message {
    fields: &[
        ("get", 4, Of(&V3_OPERATION)),
        ("put", 5, Of(&V3_OPERATION)),
        ("post", 6, Of(&V3_OPERATION)),
        ("delete", 7, Of(&V3_OPERATION)),
        ("options", 8, Of(&V3_OPERATION)),
        ("head", 9, Of(&V3_OPERATION)),
        ("patch", 10, Of(&V3_OPERATION)),
        ("parameters", 13, V3_PARAMETERS),
    ],
    extensions: 14,
    others: None,
};

static V3_OPERATION: Message = Message {
    fields: &[
        ("tags", 1, TEXTS),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, V3_PARAMETERS),
        ("requestBody", 7, In(1, &Of(&V3_REQUEST))),
        ("responses", 8, Of(&Message { fields: NONE, extensions: 3, others: Some((2, In(1, &Of(&V3_RESPONSE)))) })),
    ],
    extensions: 13,
    others: None,
};

const V3_PARAMETERS: Form = List(&In(1, &Of(&V3_PARAMETER)));
const V3_CONTENT: Form = Map(&Of(&V3_MEDIA));

static V3_PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("schema", 10, V3_SCHEMA),
    ],
    extensions: 14,
    others: None,
};

static V3_REQUEST: Message = Message {
    fields: &[("description", 1, Text), ("content", 2, V3_CONTENT), ("required", 3, Flag)],
    extensions: 4,
    others: None,
};

static V3_RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("content", 3, V3_CONTENT)], extensions: 5, others: None };

static V3_MEDIA: Message = Message { fields: &[("schema", 1, V3_SCHEMA)], extensions: 5, others: None };

const V3_SCHEMA: Form = Choice(v3_schema);

fn v3_schema(value: &Value) -> (&'static [u32], &'static Form) {
    static OWN: Form = Of(&V3_OWN);
    static REFERENCE: Form = Of(&Message { fields: &[("$ref", 1, Text)], extensions: 0, others: None });
    if value.get("$ref").is_some() { (&[2], &REFERENCE) } else { (&[1], &OWN) }
}

static V3_OWN: Message = Message {
    fields: &[
        ("nullable", 1, Flag),
        ("example", 7, Any),
        ("title", 9, Text),
        ("multipleOf", 10, Number),
        ("maximum", 11, Number),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Integer),
        ("minLength", 16, Integer),
        ("pattern", 17, Text),
        ("maxItems", 18, Integer),
        ("minItems", 19, Integer),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Integer),
        ("minProperties", 22, Integer),
        ("required", 23, TEXTS),
        ("enum", 24, List(&Any)),
        ("type", 25, Text),
        ("allOf", 26, List(&V3_SCHEMA)),
        ("oneOf", 27, List(&V3_SCHEMA)),
        ("anyOf", 28, List(&V3_SCHEMA)),
        ("not", 29, Of(&V3_OWN)),
        ("items", 30, In(1, &V3_SCHEMA)),
        ("properties", 31, Map(&V3_SCHEMA)),
        ("additionalProperties", 32, Choice(v3_additional)),
        ("default", 33, Choice(v3_default)),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
    others: None,
};

fn v3_additional(value: &Value) -> (&'static [u32], &'static Form) {
    if value.is_boolean() { (&[2], &Flag) } else { (&[1], &V3_SCHEMA) }
}

/// Only scalars can be told; others leave an empty message.
fn v3_default(value: &Value) -> (&'static [u32], &'static Form) {
    match value {
        Value::Number(_) => (&[1], &Number),
        Value::Bool(_) => (&[2], &Flag),
        Value::String(_) => (&[3], &Text),
        _ => (&[], &Any),
    }
}
