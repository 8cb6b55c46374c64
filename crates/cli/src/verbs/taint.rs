//! `taint`: marks on nodes that keep pods away.

use clap::Args;
use serde_json::{Value, json};

use super::change::Change;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::Targets;
use crate::wire::PatchType;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Update the taints on nodes: KEY=VALUE:EFFECT sets, KEY:EFFECT- or KEY- removes.
#[derive(Args)]
pub struct Taint {
    #[command(flatten)]
    targets: Targets,
    /// Change values that are there already
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    change: Change,
}

/// One word about a taint.
#[derive(Debug, PartialEq)]
enum Wish<'a> {
    Set { key: &'a str, value: &'a str, effect: &'a str },
    Remove { key: &'a str, effect: Option<&'a str> },
}

impl<'a> Wish<'a> {
    fn parse(word: &'a str) -> Result<Self, CliError> {
        let checked = |effect: &'a str| {
            let unknown = || CliError::usage(format!("invalid taint effect: {effect}, unsupported taint effect"));
            EFFECTS.contains(&effect).then_some(effect).ok_or_else(unknown)
        };
        if let Some(rest) = word.strip_suffix('-') {
            let (name, effect) = rest.split_once(':').map_or((rest, None), |(name, effect)| (name, Some(effect)));
            let key = name.split('=').next().unwrap_or(name);
            return Ok(Self::Remove { key, effect: effect.map(checked).transpose()? });
        }
        let wrong = || CliError::usage(format!("invalid taint spec: {word}"));
        let (name, effect) = word.rsplit_once(':').ok_or_else(wrong)?;
        let (key, value) = name.split_once('=').unwrap_or((name, ""));
        Ok(Self::Set { key, value, effect: checked(effect)? })
    }
}

impl Taint {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let mut targets = self.targets.clone();
        // The type and names come first; a taint has a colon or a dash at its end.
        let is_wish = |word: &String| word.contains(':') || word.ends_with('-');
        targets.words.retain(|word| !is_wish(word));
        let words = self.targets.words.iter().filter(|word| is_wish(word));
        let wishes = words.map(|word| Wish::parse(word)).collect::<Result<Vec<_>, _>>()?;
        if wishes.is_empty() {
            return Err(CliError::usage("at least one taint update is required"));
        }
        let done = if wishes.iter().all(|wish| matches!(wish, Wish::Remove { .. })) { "untainted" } else { "tainted" };
        for (target, node) in targets.fetch(session).await? {
            if target.kind.kind != "Node" {
                return Err(CliError::usage(format!(
                    "invalid resource type {}, only node(s) is supported",
                    target.kind.plural
                )));
            }
            let name = target.name.as_deref().unwrap_or_default();
            let taints = changed(&node["spec"]["taints"], &wishes, self.overwrite, name)?;
            // Only as the taints were: a list is replaced as a whole.
            let version = &node["metadata"]["resourceVersion"];
            let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
            self.change.patch(session, &target, &node, (PatchType::Merge, &patch), done).await?;
        }
        Ok(())
    }
}

fn changed(now: &Value, wishes: &[Wish<'_>], overwrite: bool, node: &str) -> Result<Vec<Value>, CliError> {
    let mut taints = now.as_array().cloned().unwrap_or_default();
    for wish in wishes {
        match *wish {
            Wish::Set { key, value, effect } => {
                let is_same = |taint: &Value| taint["key"] == key && taint["effect"] == effect;
                if !overwrite
                    && taints.iter().any(|taint| is_same(taint) && taint["value"].as_str().unwrap_or_default() != value)
                {
                    return Err(CliError::usage(format!(
                        "node {node} already has {key} taint(s) with same effect(s) and --overwrite is false"
                    )));
                }
                taints.retain(|taint| !is_same(taint));
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = json!(value);
                }
                taints.push(taint);
            }
            Wish::Remove { key, effect } => {
                let before = taints.len();
                taints.retain(|taint| taint["key"] != key || effect.is_some_and(|effect| taint["effect"] != effect));
                if taints.len() == before {
                    let what = effect.map_or(key.to_owned(), |effect| format!("{key}:{effect}"));
                    return Err(CliError::usage(format!("taint \"{what}\" not found")));
                }
            }
        }
    }
    Ok(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_about_taints() {
        let set = |key, value, effect| Wish::Set { key, value, effect };
        for (word, wish) in [
            ("a=b:NoSchedule", set("a", "b", "NoSchedule")),
            ("a:NoExecute", set("a", "", "NoExecute")),
            ("a-", Wish::Remove { key: "a", effect: None }),
            ("a:NoExecute-", Wish::Remove { key: "a", effect: Some("NoExecute") }),
            ("a=b:NoExecute-", Wish::Remove { key: "a", effect: Some("NoExecute") }),
        ] {
            assert_eq!(Wish::parse(word).unwrap(), wish, "{word}");
        }
        assert!(Wish::parse("a=b:Never").is_err() && Wish::parse("a=b").is_err());
    }

    #[test]
    fn taints_change() {
        let now = json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]);
        let after = |word: &str, overwrite| changed(&now, &[Wish::parse(word).unwrap()], overwrite, "n");
        assert_eq!(after("c:NoExecute", false).unwrap()[1], json!({"key": "c", "effect": "NoExecute"}));
        assert!(after("a=x:NoSchedule", false).is_err());
        assert_eq!(after("a=x:NoSchedule", true).unwrap(), [json!({"key": "a", "value": "x", "effect": "NoSchedule"})]);
        assert!(after("a-", false).unwrap().is_empty());
        assert!(after("a:NoExecute-", false).is_err());
    }
}
