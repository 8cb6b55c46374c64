//! `/debug/api_priority_and_fairness/*`: what the queues look like now.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::FlowControl;
use super::level::Level;

/// Where they are.
pub(crate) const PATH: &str = "/debug/api_priority_and_fairness/";

/// The dump of that name.
pub(super) fn dump(flow: &FlowControl, name: &str, details: bool) -> Option<String> {
    let levels: Vec<Arc<Level>> = flow.levels();
    Some(match name {
        "dump_priority_levels" => levels_table(&levels),
        "dump_queues" => queues_table(&levels),
        "dump_requests" => requests_table(flow, &levels, details),
        _ => return None,
    })
}

fn levels_table(levels: &[Arc<Level>]) -> String {
    let mut rows = vec![row([
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for level in levels {
        let state = level.state();
        let (totals, active) = (state.set.totals(), state.set.queue_rows().filter(|q| q.waiting > 0).count());
        rows.push(vec![
            level.name.clone(),
            active.to_string(),
            state.set.is_idle().to_string(),
            false.to_string(),
            totals.waiting.to_string(),
            totals.executing.to_string(),
            totals.dispatched.to_string(),
            totals.refused.to_string(),
            "0".to_owned(),
            totals.cancelled.to_string(),
        ]);
    }
    table(rows)
}

fn queues_table(levels: &[Arc<Level>]) -> String {
    let mut rows = vec![row([
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for level in levels {
        for (index, queue) in level.state().set.queue_rows().enumerate() {
            rows.push(vec![
                level.name.clone(),
                index.to_string(),
                queue.waiting.to_string(),
                queue.executing.to_string(),
                queue.seats.to_string(),
                format!("{:.8}ss", queue.next),
                queue.initial_seats.to_string(),
                queue.seats_waiting.to_string(),
                format!("{:.8}ss", queue.work),
            ]);
        }
    }
    table(rows)
}

fn requests_table(flow: &FlowControl, levels: &[Arc<Level>], details: bool) -> String {
    let mut head = row([
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        head.extend(row(["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"]));
    }
    let mut rows = vec![head];
    let index = |index: Option<usize>| index.map_or("-1".to_owned(), |i| i.to_string());
    let time = |at: Option<Duration>| at.map_or("0001-01-01T00:00:00Z".to_owned(), |at| moment(flow, at));
    for level in levels {
        for request in level.state().set.request_rows() {
            let what = request.what;
            let mut cells = vec![
                level.name.clone(),
                request.schema.to_owned(),
                index(request.queue),
                index(request.index),
                what.namespace.as_deref().unwrap_or(&what.user.name).to_owned(),
                time(Some(request.arrived)),
                request.work.initial.to_string(),
                request.work.last.to_string(),
                format!("{:?}", request.work.lingers),
                time(request.began),
            ];
            if details {
                cells.push(what.user.name.clone());
                // Of those at work only the user is kept: they are many, and pass quickly.
                let empty = Default::default();
                cells.extend(request.waiter.map_or(&empty, |w| &w.details).iter().map(|d| d.to_string()));
            }
            rows.push(cells);
        }
    }
    table(rows)
}

fn moment(flow: &FlowControl, at: Duration) -> String {
    let ago = flow.world.elapsed().saturating_sub(at);
    let now: Timestamp = flow.world.now();
    now.checked_sub(ago).unwrap_or(now).strftime("%Y-%m-%dT%H:%M:%S.%fZ").to_string()
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Columns padded to the widest cell, each cell but the last with a comma, as upstream's dumps are.
fn table(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.len() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (place, cell) in row.iter().enumerate() {
            if place + 1 == row.len() {
                let _ = writeln!(out, "{cell}");
            } else {
                let _ = write!(out, "{:<width$}", format!("{cell},"), width = widths[place]);
            }
        }
    }
    out
}
