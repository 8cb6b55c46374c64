//! What expressions evaluate to, what is wrong with them, and what they cost.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

/// An authorizer that lets everybody get what is named after them.
#[derive(Debug)]
struct Namesakes;

impl Authorizer for Namesakes {
    fn authorize(&self, account: Option<(&str, &str)>, attributes: &Attributes) -> Decision {
        let user = account.map_or("alice", |(_, name)| name);
        let allowed = attributes.verb == "get" && (attributes.name == user || attributes.path.is_some());
        Decision { allowed, reason: format!("{user} asked"), error: None }
    }
}

fn data() -> Json {
    json!({
        "name": "web", "n": 3, "f": 1.5, "list": [3, 1, 2], "names": ["a", "b"], "labels": {"app": "x", "a.b/c": "y"},
        "nested": {"deep": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]}, "none": null, "unicode": "é👑x",
    })
}

fn env() -> Env {
    Env::new().with("self", Type::Dyn).with("authorizer", Type::Library(Library::Authorizer))
}

fn run(source: &str, data: &Json) -> Result<String, String> {
    let env = env();
    let program = env
        .compile(source)
        .map_err(|issues| issues.issues.first().map_or(issues.to_string(), |issue| issue.message.clone()))?;
    let variables = [Some(Value::json(data)), Some(Special::Check(Check::new(&Namesakes)).into())];
    let value = program.evaluate(&variables, &mut Budget::new(PER_CALL_LIMIT)).map_err(|e| e.to_string())?;
    Ok(value.to_json().map_or_else(|| format!("{value:?}"), |json| json.to_string()))
}

/// Each line is an expression and, behind `=>`, the JSON it evaluates to; behind `!!`, the error.
const TABLE: &str = include_str!("tests/table.txt");

#[test]
fn expressions_evaluate_as_upstream() {
    let data = data();
    let mut wrong = Vec::new();
    let mut lines = 0;
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        lines += 1;
        let (source, wanted) = match (line.split_once(" => "), line.split_once(" !! ")) {
            (Some((source, value)), _) => (source, Ok(value.to_owned())),
            (_, Some((source, error))) => (source, Err(error.to_owned())),
            _ => panic!("{line}"),
        };
        let found = run(source.trim(), &data);
        if found != wanted {
            wrong.push(format!("{source}\n    {found:?}, wanted {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {lines}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(lines > 250, "{lines}");
}

#[test]
fn faults_are_shown_with_their_line() {
    let found = env().compile("self.a ==\n\t  foo + 1").unwrap_err().to_string();
    let wanted = "ERROR: <input>:2:4: undeclared reference to 'foo' (in container '')\n |   foo + 1\n | ...^";
    assert_eq!(found, wanted.replace(" |   foo", " |    foo"));
    let two = env().compile("a + b").unwrap_err();
    assert_eq!(two.issues.len(), 2);
}

fn schema() -> Json {
    json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "maxLength": 10},
        "free": {"type": "string"},
        "n": {"type": "integer"},
        "in": {"type": "string", "maxLength": 5},
        "a-b": {"type": "string"},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "port": {"x-kubernetes-int-or-string": true},
        "any": {"x-kubernetes-preserve-unknown-fields": true},
        "when": {"type": "string", "format": "date-time"},
        "wait": {"type": "string", "format": "duration"},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true},
    }})
}

fn typed(source: &str) -> Result<Program, String> {
    let decl = Schema::read(&schema(), true).declare("selfType").unwrap();
    let env = Env::new().with("self", decl.ty.clone()).sized(Arc::new(decl));
    env.compile(source).map_err(|issues| issues.issues[0].message.clone())
}

#[test]
fn schemas_give_types_to_data() {
    let data = json!({"name": "x", "n": 1, "in": "i", "a-b": "d", "list": ["a"], "set": ["a", "b"],
        "keyed": [{"k": "a", "v": 1}, {"k": "b"}], "map": {"m": 1}, "port": "80%", "when": "2024-02-29T12:00:00Z",
        "wait": "1h30m", "metadata": {"name": "me"}, "kind": "K", "pod": {"kind": "Pod", "metadata": {"name": "p"}}});
    let schema = Schema::read(&schema(), true);
    let table = [
        "self.__in__ == 'i' && self.a__dash__b == 'd'",
        "self.set == ['b', 'a'] && self.set + ['a', 'c'] == ['c', 'a', 'b']",
        "size(self.keyed + self.keyed) == 2",
        "!has(self.keyed[1].v) && self.keyed.exists(e, has(e.v) && e.v == 1)",
        "type(self.port) == string && self.port.endsWith('%')",
        "self.when > timestamp('2024-01-01T00:00:00Z') && self.wait == duration('90m')",
        "self.metadata.name == 'me' && self.kind == 'K' && self.pod.metadata.name == 'p'",
        "!has(self.free) && self.?free.orValue('z') == 'z'",
        "self.map.all(k, self.map[k] > 0)",
    ];
    for source in table {
        let program = typed(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let value = program.evaluate(&[Some(Value::of(&data, &schema).unwrap())], &mut Budget::new(10_000));
        assert!(matches!(value, Ok(Value::Bool(true))), "{source}: {value:?}");
    }
    let refused = [
        ("self.nope", "undefined field 'nope'"),
        ("self.any == 1", "undefined field 'any'"),
        ("self.metadata.labels", "undefined field 'labels'"),
        ("self.n + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("self.n == '1'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.list.foo", "type 'list(string)' does not support field selection"),
        (
            "self.n.all(x, true)",
            "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("self.list[0].startsWith(1)", "found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("self.n ? 1 : 2", "found no matching overload for '_?_:_' applied to '(int, int, int)'"),
        ("self.name && true", "expected type 'bool' but found 'string'"),
        ("self.list.exists(x, x)", "expected type 'bool' but found 'string'"),
    ];
    for (source, wanted) in refused {
        assert_eq!(typed(source).map(|_| ()), Err(wanted.to_owned()), "{source}");
    }
}

#[test]
fn the_worst_cost_follows_from_the_bounds_of_the_schema() {
    let table = [
        ("self.name == 'x'", 3),
        ("self.free == self.free", 314_577),
        ("self.free.matches('^a+$')", 314_575),
        ("self.list.all(x, x == 'a')", 53),
        ("self.list.all(x, self.list.all(y, x != y))", 763),
        ("self.map.all(k, true)", 1_348_170),
        ("self.n > 1", 3),
        ("has(self.free)", 1),
        ("self.list.map(x, x + '!').size() > 3", 175),
        ("sets.contains(self.list, ['a', 'b'])", 33),
        ("sets.equivalent(self.list, ['a', 'b'])", 53),
    ];
    for (source, wanted) in table {
        assert_eq!(typed(source).unwrap().cost(), wanted, "{source}");
    }
    // Without bounds, loops within loops are beyond any limit.
    assert!(typed("self.map.all(k, self.map.all(l, k != l))").unwrap().cost() > 1_000_000_000_000);
}

#[test]
fn what_an_evaluation_cost_is_upstreams_count() {
    let data = json!({"name": "web", "n": 1, "list": ["a", "b"], "map": {"x": 1, "y": 2}});
    let schema = Schema::read(&schema(), true);
    let table = [
        ("self.n == 1", 3),
        ("type(self.n) == int", 4),
        ("self.map.all(k, self.map[k] > 0)", 17),
        ("self.map.transformMap(k, v, v + 1).size() == 2", 15),
        ("self.list.filter(x, x == 'a').size() == 1", 22),
        ("self.?free.orValue('v') == 'a'", 2),
        ("self.name in ['a', 'b']", 2),
        ("self.name.startsWith('w')", 3),
    ];
    for (source, wanted) in table {
        let mut budget = Budget::new(1_000);
        let program = typed(source).unwrap();
        program.evaluate(&[Some(Value::of(&data, &schema).unwrap())], &mut budget).unwrap();
        assert_eq!(budget.spent(), wanted, "{source}");
    }
}

#[test]
fn comparing_large_data_is_not_free() {
    let inner: Vec<Json> = (0..50_000).map(Json::from).collect();
    let many: Vec<i32> = (0..1_000).collect();
    let data = json!({"big": {"only": inner}, "many": many, "text": "x".repeat(1 << 20)});
    for source in [
        "self.many.all(x, self.big == self.big)",
        "self.many.all(x, self.text.size() > 0)",
        "self.many.all(x, '%s'.format([self.text]) != '')",
    ] {
        let program = env().compile(source).unwrap();
        let mut budget = Budget::new(PER_CALL_LIMIT / 10);
        let outcome = program.evaluate(&[Some(Value::json(&data))], &mut budget);
        assert_eq!(outcome.map(|_| ()), Err(Error::TooCostly), "{source}");
    }
}

#[test]
fn names_can_be_bound_where_that_is_known() {
    let env = Env::new().with("self", Type::Int);
    let source = "cel.bind(x, self + 1, x * x)";
    assert!(env.compile(source).is_err());
    let program = env.with_bindings().compile(source).unwrap();
    let value = program.evaluate(&[Some(Value::Int(2))], &mut Budget::new(100));
    assert!(matches!(value, Ok(Value::Int(9))), "{value:?}");
}

#[test]
fn a_budget_ends_what_costs_too_much() {
    let data = json!({});
    for source in [
        "lists.range(10000).all(x, lists.range(10000).all(y, x != y - 20000))",
        "lists.range(2000000).size() > 0",
        "sets.contains(lists.range(10000), lists.range(10000))",
        "lists.range(900).map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'.matches('(a*)*b')).size() > 0 && lists.range(99999).distinct().size() > 0",
    ] {
        let program = env().compile(source).unwrap();
        let outcome = program.evaluate(&[Some(Value::json(&data))], &mut Budget::new(50_000));
        let error = outcome.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded", "{source}");
    }
}

#[test]
fn depth_is_bounded_and_fits_the_smallest_stack() {
    let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    let deep_list = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let sum = |n: usize| vec!["1"; n].join(" + ");
    let chain = |n: usize| vec!["true"; n].join(" && ");
    let not = |n: usize| format!("{}true", "!".repeat(n));
    let optional = |n: usize| format!("self{}", ".?a.optMap(x, x)".repeat(n));
    let fold = |n: usize| format!("{}true{}", "[1].all(x, ".repeat(n), ")".repeat(n));
    let sources = [
        (nested(200), true),
        (nested(100_000 / 2 - 1), false),
        (deep_list(200), true),
        (deep_list(10_000), false),
        (sum(400), true),
        (sum(5_000), false),
        (chain(10_000), true),
        (not(50_001), true),
        (optional(30), false),
        (fold(100), true),
        (fold(1_000), false),
    ];
    // As much as a worker thread has; code that is not optimised takes twice the room.
    let room = if cfg!(debug_assertions) { 4 << 20 } else { 2 << 20 };
    let small = std::thread::Builder::new().stack_size(room);
    let work = move || {
        for (source, valid) in sources {
            let found = run(&source, &json!({"a": 1}));
            assert_eq!(found.is_ok(), valid, "{} {:?}", &source[..40], found.map(|v| v.len()));
        }
    };
    small.spawn(work).unwrap().join().unwrap();
}

/// Pieces that put together are often an expression, and sometimes nearly one.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "self",
        ".a",
        ".name",
        "[0]",
        "['x']",
        "[?0]",
        ".?b",
        "(",
        ")",
        "1",
        "-1",
        "2u",
        "1.5",
        "'s'",
        "b'b'",
        "true",
        "null",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "!",
        "?",
        ":",
        ",",
        " in ",
        "[",
        "]",
        "{",
        "}",
        ".all(x, ",
        ".map(x, ",
        ".exists(i, v, ",
        "size(",
        ".size()",
        "has(self.a)",
        "int(",
        "string(",
        ".matches('",
        "timestamp(",
        "duration('1h')",
        ".format([",
        "quantity('1Gi')",
        "ip('::1')",
        "cidr('10.0.0.0/8')",
        ".split('')",
        "lists.range(",
        ".sortBy(x, x)",
        "optional.of(",
        ".orValue(1)",
        ".substring(",
        "'\\u00",
        "\"\"\"",
        "//",
        "\n",
        "é",
        "👑",
        "9223372036854775807",
        "-9223372036854775808",
        "self.list",
        "x",
        ".flatten()",
        ".distinct()",
        "sets.contains(",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..14).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("SKIFF_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
    ))]

    #[test]
    fn no_input_panics(source in prop_oneof![pieces(), ".{0,40}"]) {
        let _ = run(&source, &data());
        if let Err(issues) = env().compile(&source) {
            prop_assert!(!issues.to_string().is_empty());
        }
    }

    #[test]
    fn escaped_names_are_identifiers(name in "[a-z0-9_./-]{1,12}") {
        if let Some(escaped) = escape(&name) {
            let decl = Schema::read(&json!({"type": "object", "properties": {name.clone(): {"type": "integer"}}}), false);
            let env = Env::new().with("self", decl.declare("t").unwrap().ty);
            let compiled = env.compile(&format!("self.{escaped} == 1"));
            prop_assert!(compiled.is_ok(), "{escaped}");
        }
    }
}
