//! What compiling and evaluating cost: `cargo run --release -p skiff-cel --example bench`.
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use skiff_cel::{Budget, Env, Schema, Value};

const ROUNDS: u32 = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"},
        "maxReplicas": {"type": "integer"},
        "image": {"type": "string", "maxLength": 200},
        "ports": {"type": "array", "maxItems": 20, "items": {"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 20}, "port": {"type": "integer"}}}},
    }});
    let ports: Vec<_> = (0..10).map(|i| json!({"name": format!("p{i}"), "port": 8000 + i})).collect();
    let data = json!({"replicas": 3, "maxReplicas": 5, "image": "registry.example/web:1.2.3", "ports": ports});
    let schema = Schema::read(&schema, true);
    let decl = schema.declare("selfType").ok_or("the schema has no type")?;
    let env = Env::new().with("self", decl.ty.clone()).sized(Arc::new(decl));
    println!("{:>10} {:>10} {:>10}  expression", "compile", "evaluate", "cost");
    for source in [
        "self.replicas <= self.maxReplicas",
        "self.image.matches('^[a-z0-9./-]+:[0-9.]+$')",
        "self.ports.all(p, p.port > 0 && p.port < 65536)",
        "self.ports.all(p, self.ports.exists_one(q, p.name == q.name))",
        "self.ports.map(p, '%s=%d'.format([p.name, p.port])).join(',').size() < 500",
    ] {
        let started = Instant::now();
        for _ in 0..ROUNDS / 20 {
            black_box(env.compile(source)?);
        }
        let compile = started.elapsed() / (ROUNDS / 20);
        let program = env.compile(source)?;
        let started = Instant::now();
        let mut budget = Budget::new(0);
        for _ in 0..ROUNDS {
            budget = Budget::new(1_000_000);
            black_box(program.evaluate(&[Some(Value::of(&data, &schema)?)], &mut budget)?);
        }
        let evaluate = started.elapsed() / ROUNDS;
        println!("{compile:>10.1?} {evaluate:>10.1?} {:>10}  {source}", budget.spent());
    }
    Ok(())
}
