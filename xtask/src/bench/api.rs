//! The API server alone: how soon it is there, what it weighs, how fast it writes, reads and tells.

use std::process::Command;
use std::time::Duration;

use super::Table;
use super::load::{MAPS, Target, Wrk};
use super::server::Server;
use crate::Failure;
use crate::run::{output, target};

const OBJECTS: u64 = 30_000;
const CONTROL_PLANE: &str = "agent,scheduler,controller-manager,proxy,dns";
/// Starts are short, so that one says little.
const STARTS: usize = 5;
/// A process that has become quiet gives back what only its start needed.
const SETTLED: Duration = Duration::from_secs(12);

/// Fills the table; `other` gets the same loads.
pub(crate) fn measure(table: &mut Table, other: Option<&Target>) -> Result<(), Failure> {
    let all = Server::alone("agent")?;
    std::thread::sleep(SETTLED);
    table.row("idle memory, with controllers and scheduler", all.memory()?);
    drop(all);
    let mut starts = Vec::new();
    for _ in 1..STARTS {
        starts.push(Server::alone(CONTROL_PLANE)?.ready);
    }
    let server = Server::alone(CONTROL_PLANE)?;
    starts.push(server.ready);
    starts.sort();
    let figure = format!("{} ms (median of {STARTS}, best {})", starts[STARTS / 2].as_millis(), starts[0].as_millis());
    table.row("exec to /readyz ok, fresh store", figure);
    std::thread::sleep(SETTLED);
    table.row("idle memory, API server and store", server.memory()?);
    let mut made = 0;
    while made < OBJECTS {
        // Slow enough to stop near the number.
        made += server.target.load(&create(1, 1))?.requests;
    }
    table.row(format!("memory after {made} ConfigMaps of 1 KiB"), server.memory()?);
    for connections in [1, 16, 32, 128] {
        compare(
            table,
            &format!("create, durable, {connections} connections"),
            &server,
            other,
            &create(connections, 5),
        )?;
    }
    let name = format!("{MAPS}/{}", server.target.some_name()?);
    let others = other.map(|other| other.some_name().map(|name| format!("{MAPS}/{name}"))).transpose()?;
    let get = |path| Wrk { connections: 32, seconds: 5, path, script: None };
    let reference = match (other, &others) {
        (Some(other), Some(path)) => Some(other.load(&get(path))?),
        _ => None,
    };
    table.row("GET, 32 connections", server.target.load(&get(&name))?.told(reference.as_ref()));
    let page = format!("{MAPS}?limit=500");
    let page = Wrk { connections: 16, seconds: 5, path: &page, script: None };
    compare(table, "LIST limit=500, 16 connections", &server, other, &page)?;
    let all = format!("{MAPS}?resourceVersion=0");
    let all = Wrk { connections: 2, seconds: 10, path: &all, script: None };
    compare(table, "LIST of all from cache, 2 connections", &server, other, &all)?;
    let reader = target().join("release/examples/watchers");
    let seen = output(Command::new(reader).arg(server.kubeconfig()))?;
    table.row("one write seen by 1,000 watchers", seen.trim());
    table.row("memory at the end", server.memory()?);
    Ok(())
}

fn create<'a>(connections: u32, seconds: u32) -> Wrk<'a> {
    Wrk { connections, seconds, path: MAPS, script: Some("create.lua") }
}

fn compare(table: &mut Table, what: &str, own: &Server, other: Option<&Target>, wrk: &Wrk) -> Result<(), Failure> {
    let reference = other.map(|other| other.load(wrk)).transpose()?;
    table.row(what, own.target.load(wrk)?.told(reference.as_ref()));
    Ok(())
}
