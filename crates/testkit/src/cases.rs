//! Runs named cases one after the other against something they share, and reports as Cargo's own harness does.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A case: its name and what it does; it fails by an error or a panic.
pub type Case<C> = (&'static str, fn(&mut C) -> Result<(), String>);

/// Runs the cases whose names contain the first argument of the command line (all without one); the exit code.
pub fn run<C>(context: &mut C, cases: &[Case<C>]) -> i32 {
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let chosen: Vec<&Case<C>> = cases.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failures = Vec::new();
    for (name, case) in &chosen {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(context)));
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(message(&*panic)),
        };
        println!("test {name} ... {}", if error.is_none() { "ok" } else { "FAILED" });
        failures.extend(error.map(|error| (*name, error)));
    }
    for (name, error) in &failures {
        println!("\n---- {name} ----\n{error}");
    }
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    let passed = chosen.len() - failures.len();
    let left_out = cases.len() - chosen.len();
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured; {left_out} filtered out\n",
        failures.len()
    );
    i32::from(!failures.is_empty())
}

/// Runs the cases against what `start` gave, and ends that; the exit code. What did not start counts as one failure.
pub fn run_with<C>(start: Result<C, String>, cases: &[Case<C>]) -> i32 {
    match start {
        Ok(mut context) => run(&mut context, cases),
        Err(error) => {
            println!(
                "---- start ----\n{error}\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
            );
            1
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked".to_owned())
}
