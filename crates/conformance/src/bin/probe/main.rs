//! `probe`: what the suites' containers run. It says what it sees, and does as it is told.
//!
//! | Command | What it does |
//! |---|---|
//! | `probe serve` | HTTP and gRPC health checks on port 8080 (`--port`), datagrams on 8081 (`--udp`), until SIGTERM and `--linger` seconds more; see [`serve`] |
//! | `probe get URL` | Prints a page; `udp://HOST:PORT` sends a datagram and prints the answer |
//! | `probe lookup NAME` | Prints the name's addresses, sorted, one per line |
//! | `probe hook FOLDER` | A webhook of admission on port 8443, with the certificate and key in the folder; see [`hook`] |
//! | `probe eat MEBIBYTES [SECONDS]` | Takes memory and a processor, and says when it has it |
#![allow(clippy::disallowed_methods, reason = "a program of its own inside a container, under no world")]

mod ask;
mod hook;
mod serve;

use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = match words.as_slice() {
        ["serve", flags @ ..] => serve::Options::read(flags).and_then(|options| wait(serve::run(options))),
        ["get", url] => wait(ask::get(url)).map(|page| print!("{page}")),
        ["lookup", name] => wait(ask::lookup(name)).map(|addresses| println!("{}", addresses.join("\n"))),
        ["hook", folder] => wait(hook::run(folder.as_ref())),
        ["eat", size] => eat(size, "3600"),
        ["eat", size, seconds] => eat(size, seconds),
        _ => Err("probe serve|get URL|lookup NAME|hook FOLDER|eat MEBIBYTES [SECONDS]".to_owned()),
    };
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(work)
}

fn eat(size: &str, seconds: &str) -> Result<(), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    let (size, end) = (number(size)? << 20, Instant::now() + Duration::from_secs(number(seconds)?));
    // Pages that hold zeros may not be there at all.
    let mut taken = vec![1u8; usize::try_from(size).map_err(|e| e.to_string())?];
    println!("{} bytes taken", taken.len());
    while Instant::now() < end {
        taken.iter_mut().step_by(4_096).for_each(|byte| *byte = byte.wrapping_add(1));
    }
    Ok(())
}
