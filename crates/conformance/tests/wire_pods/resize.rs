//! Resources of running pods change in place: in the object, in its status and in the kernel, and nothing is started anew.

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Credentials;
use skiff_meta::quantity::Quantity;

use crate::support::{Api as Run, Outcome, accepted, expect, is_ready};
use crate::table::{BUSYBOX, pod};

/// Requests and limits of processors and memory; empty: none.
type Amounts = [&'static str; 4];

/// What a pod's containers have, and what they shall have.
struct Row {
    name: &'static str,
    before: Vec<Amounts>,
    after: Vec<Amounts>,
}

fn same(cpu: &'static str, memory: &'static str) -> Amounts {
    [cpu, cpu, memory, memory]
}

fn rows() -> Vec<Row> {
    let three = || vec![same("20m", "35Mi"), same("22m", "37Mi"), same("24m", "39Mi")];
    let row = |name, before, after| Row { name, before, after };
    vec![
        row("net-increase", three(), vec![same("25m", "40Mi"), same("27m", "42Mi"), same("19m", "34Mi")]),
        row("net-decrease", three(), vec![same("25m", "40Mi"), same("17m", "32Mi"), same("19m", "34Mi")]),
        row("up-and-down", three(), vec![same("25m", "35Mi"), same("17m", "42Mi"), same("29m", "44Mi")]),
        row(
            "more-of-each",
            vec![
                ["20m", "", "", ""],
                ["", "", "35Mi", ""],
                ["20m", "", "35Mi", ""],
                ["20m", "", "", ""],
                ["", "", "35Mi", ""],
            ],
            vec![
                ["25m", "35m", "", ""],
                ["", "", "30Mi", "50Mi"],
                ["20m", "", "30Mi", ""],
                ["15m", "", "35Mi", ""],
                ["20m", "", "40Mi", ""],
            ],
        ),
        // The kernel's shares of both are the same.
        row("equivalents", vec![["2m", "10m", "", ""]], vec![["1m", "5m", "", ""]]),
        row("replaced", vec![["20m", "", "35Mi", ""]], vec![["25m", "", "40Mi", ""]]),
    ]
}

fn resources(amounts: &Amounts) -> Value {
    let list = |pairs: [(&str, &str); 2]| -> Value {
        pairs
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| ((*name).to_owned(), json!(text)))
            .collect()
    };
    let [cpu, cpus, memory, memories] = *amounts;
    let (requests, limits) = (list([("cpu", cpu), ("memory", memory)]), list([("cpu", cpus), ("memory", memories)]));
    let all = [("requests", requests), ("limits", limits)].into_iter().filter(|(_, list)| list != &json!({}));
    all.map(|(name, list)| (name.to_owned(), list)).collect()
}

fn containers(amounts: &[Amounts]) -> Value {
    let one = |(at, amounts): (usize, &Amounts)| json!({"name": format!("c{at}"), "image": BUSYBOX, "command": ["sleep", "600"], "resources": resources(amounts)});
    amounts.iter().enumerate().map(one).collect()
}

/// Whether the status says so, of all containers, none of which was started anew.
fn is_granted(pod: &Value, amounts: &[Amounts]) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let all = amounts.iter().enumerate().all(|(at, amounts)| {
        let name = format!("c{at}");
        let found = statuses.into_iter().flatten().find(|status| status["name"] == *name);
        found.is_some_and(|one| one["resources"] == resources(amounts) && one["restartCount"] == 0)
    });
    let under_way = pod["status"]["conditions"].as_array().into_iter().flatten();
    all && !under_way.into_iter().any(|c| c["type"].as_str().is_some_and(|type_| type_.starts_with("PodResize")))
}

/// What the kernel says of a container's limits, in either version of its groups: processors' time in each 100 ms, and memory.
const KERNEL: &str = "cd /sys/fs/cgroup; for f in cpu/cpu.cfs_quota_us cpu.max memory/memory.limit_in_bytes memory.max; do \
    test -e $f && cut -d ' ' -f 1 $f; done; true";

fn in_kernel(amounts: &Amounts) -> (Option<i64>, Option<i64>) {
    let limit = |text: &str| text.parse::<Quantity>().ok();
    // A hundredth of a processor is the least the runtime sets.
    let cpu = limit(amounts[1]).map(|cpu| (cpu.milli() * 100).max(1_000));
    (cpu, limit(amounts[3]).map(|memory| memory.value()))
}

fn holds(run: &Run, home: &str, name: &str, amounts: &[Amounts]) -> Outcome {
    run.pod_when(&format!("{name} has what it asks for"), home, name, |pod| is_granted(pod, amounts))?;
    for (at, amounts) in amounts.iter().enumerate() {
        let said = run.exec(home, name, &format!("c{at}"), KERNEL)?;
        let is_limit = |number: &i64| *number > 0 && *number < 1 << 60;
        let mut numbers = said.lines().map(|line| line.parse::<i64>().ok().filter(is_limit));
        let found = (numbers.next().flatten(), numbers.next().flatten());
        if found != in_kernel(amounts) {
            return Err(format!("{name} c{at}: the kernel says {said:?}, not {:?}", in_kernel(amounts)));
        }
    }
    Ok(())
}

pub(crate) fn in_place(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let rows = rows();
    for row in &rows {
        run.add(&home, "pods", &pod(row.name, Value::Null, json!({"containers": containers(&row.before)})))?;
    }
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    run.pods_when("all run", &home, &names, is_ready)?;
    let resize = |row: &Row, to: &[Amounts]| -> Result<Value, String> {
        let path = format!("{home}/pods/{}/resize", row.name);
        let answer = if row.name == "replaced" {
            let mut whole = run.json(Method::GET, &path, &Value::Null)?.tree();
            for (at, amounts) in to.iter().enumerate() {
                whole["spec"]["containers"][at]["resources"] = resources(amounts);
            }
            run.json(Method::PUT, &path, &whole)?
        } else {
            let with =
                |(at, amounts): (usize, &Amounts)| json!({"name": format!("c{at}"), "resources": resources(amounts)});
            let patch = json!({"spec": {"containers": to.iter().enumerate().map(with).collect::<Vec<_>>()}});
            let types = ("application/strategic-merge-patch+json", "application/json");
            run.runtime.block_on(run.wire.send(Credentials::Own, &Method::PATCH, &path, types, patch.to_string()))?
        };
        accepted(&answer).map_err(|error| format!("{}: {error}", row.name))?;
        Ok(answer.tree())
    };
    for (generation, there) in [(2, true), (3, false)] {
        for row in &rows {
            // What was never limited cannot be taken back.
            if there || row.name != "more-of-each" {
                let changed = resize(row, if there { &row.after } else { &row.before })?;
                if changed["metadata"]["generation"] != generation {
                    return Err(format!("{}: {}", row.name, changed["metadata"]["generation"]));
                }
            }
        }
        for row in rows.iter().filter(|row| there || row.name != "more-of-each") {
            holds(run, &home, row.name, if there { &row.after } else { &row.before })?;
        }
    }
    let read = |rest: &str| run.json(Method::GET, &format!("{home}/pods/replaced{rest}"), &Value::Null);
    let answer = read("/resize")?;
    expect(answer.tree() == read("")?.tree(), &answer)?;
    // Another class, less than its own requests, or another image are no resizes.
    for (to, what) in
        [(json!({"requests": null, "limits": null}), "no class"), (json!({"limits": {"cpu": "1m"}}), "less")]
    {
        let patch = json!({"spec": {"containers": [{"name": "c0", "resources": to}]}});
        let types = ("application/strategic-merge-patch+json", "application/json");
        let path = format!("{home}/pods/net-increase/resize");
        let refused = run.wire.send(Credentials::Own, &Method::PATCH, &path, types, patch.to_string());
        let refused = run.runtime.block_on(refused)?;
        expect(refused.code == 422, &refused).map_err(|error| format!("{what}: {error}"))?;
    }
    Ok(())
}
