//! `why`: what the scheduler has to say about a pod. Not one of upstream's verbs.

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::table::align;
use crate::output::yaml;
use crate::session::Session;

/// Ask the scheduler why a pod is on its node, or on none.
#[derive(Args)]
pub struct Why {
    /// The pod
    pod: String,
    /// json or yaml
    #[arg(short = 'o', long, default_value = "")]
    output: String,
}

impl Why {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let name = self.pod.trim_start_matches("pods/").trim_start_matches("pod/");
        let path = format!("/api/v1/namespaces/{}/pods/{name}/why", session.namespace);
        let why = session.wire.get(&path).await?;
        match self.output.as_str() {
            "" => session.print(&told(&why)),
            "json" => session.line(format!("{why:#}")),
            "yaml" => session.print(&yaml::emit(&why)),
            other => {
                Err(CliError::usage(format!("unable to match a printer suitable for the output format {other:?}")))
            }
        }
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// The answer for people.
fn told(why: &Value) -> String {
    let mut out = match (text(why, "node"), text(why, "nominatedNode")) {
        ("", "") => format!("{} has no node\n", text(why, "pod")),
        ("", nominated) => format!("{} waits for room on {nominated}\n", text(why, "pod")),
        (node, _) => format!("{} is on {node}\n", text(why, "pod")),
    };
    if !text(why, "message").is_empty() {
        out += &format!("{}\n", text(why, "message"));
    }
    out + &refusals(why) + &scores(why)
}

fn refusals(why: &Value) -> String {
    let rows = why["refusals"].as_array().into_iter().flatten().map(|refusal| {
        let reasons = refusal["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let reasons = reasons.collect::<Vec<_>>().join(", ");
        vec![
            text(refusal, "node").to_owned(),
            text(refusal, "plugin").to_owned(),
            reasons,
            text(refusal, "detail").to_owned(),
        ]
    });
    table(&["NODE", "REFUSED BY", "REASON", "DETAIL"], rows.collect())
}

fn scores(why: &Value) -> String {
    let nodes = why["scores"].as_array().map(Vec::as_slice).unwrap_or_default();
    let plugins = |node: &Value| -> Vec<(String, String)> {
        let pairs = node["plugins"].as_array().into_iter().flatten();
        pairs.map(|pair| (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].to_string())).collect()
    };
    let names: Vec<String> = nodes.first().map(plugins).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    let heads: Vec<&str> = ["NODE", "SCORE"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let rows = nodes.iter().map(|node| {
        let given = plugins(node).into_iter().map(|(_, score)| score);
        [text(node, "node").to_owned(), node["total"].to_string()].into_iter().chain(given).collect()
    });
    table(&heads, rows.collect())
}

fn table(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    format!("\n{}", align(&[vec![heads], rows].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_readable() {
        let waits = json!({"pod": "x/p", "refusals": [
            {"node": "a", "plugin": "NodeResourcesFit", "reasons": ["Insufficient cpu"], "detail": "cpu: asks for 2, 1 of 2 taken"},
            {"node": "b", "plugin": "NodeUnschedulable", "reasons": ["node(s) were unschedulable"]},
        ]});
        let expected = "x/p has no node\n\n\
            NODE   REFUSED BY          REASON                       DETAIL\n\
            a      NodeResourcesFit    Insufficient cpu             cpu: asks for 2, 1 of 2 taken\n\
            b      NodeUnschedulable   node(s) were unschedulable   \n";
        assert_eq!(told(&waits), expected);
        let placed = json!({"pod": "x/p", "node": "a", "scores": [
            {"node": "a", "total": 400, "plugins": [["TaintToleration", 300], ["ImageLocality", 100]]},
        ]});
        let expected =
            "x/p is on a\n\nNODE   SCORE   TaintToleration   ImageLocality\na      400     300               100\n";
        assert_eq!(told(&placed), expected);
    }
}
