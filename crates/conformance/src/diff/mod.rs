//! The same requests to two servers, and where their answers part.
//!
//! Objects of every kind are made, changed, patched, applied, read in all forms and deleted, with small damages on the
//! way, chosen by a seed. What may differ (identities, times, versions, addresses given out) is taken out of both
//! answers; whatever else differs is a fault of one of them, mostly ours. The servers must run without controllers,
//! which would change objects in between.

mod compare;
mod explained;
mod mutate;
mod normal;
mod samples;
mod steps;

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use skiff_api::{KINDS, Kind};

pub use compare::Parting;
pub use samples::SAMPLES;

use crate::{Answer, Credentials, Wire};
use mutate::Dice;
use steps::Step;

/// How often a read that differs is repeated.
const CACHED: usize = 2;
/// How much of a request's body is shown.
const BODY: usize = 6000;
/// Where the objects live, on both.
const NAMESPACE: &str = "diff";

/// Requests whose answers part, and how often such ones did.
#[derive(Debug)]
pub struct Found {
    /// How they part, the first time.
    pub parting: Parting,
    /// The request, the first time.
    pub request: String,
    /// How often.
    pub times: usize,
    /// Kinds it was seen with.
    pub kinds: Vec<&'static str>,
    /// Why it is none to mend, where it is not.
    pub why: Option<&'static str>,
}

/// Two servers, ours and the one that is right.
pub struct Differ {
    ours: Wire,
    theirs: Wire,
    found: BTreeMap<(String, bool), Found>,
    requests: usize,
    /// Each request is told to the error output.
    traces: bool,
}

impl Differ {
    /// Makes the namespace the objects live in on both.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn new(ours: Wire, theirs: Wire) -> Result<Self, String> {
        let differ = Self {
            ours,
            theirs,
            found: BTreeMap::new(),
            requests: 0,
            traces: std::env::var_os("SKIFF_DIFF_TRACE").is_some(),
        };
        let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        for (path, body) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": NAMESPACE}})),
            (&account, json!({"metadata": {"name": "default"}})),
        ] {
            for wire in [&differ.ours, &differ.theirs] {
                let answer = wire.json(Method::POST, path, &body).await?;
                if !matches!(answer.code, 201 | 409) {
                    return Err(format!("{path}: {}", String::from_utf8_lossy(&answer.bytes)));
                }
            }
        }
        Ok(differ)
    }

    /// Runs the cases of `seed`: one for every kind and served version whose name contains `filter`.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn run(&mut self, seed: u64, filter: &str) -> Result<(), String> {
        for (number, kind) in KINDS.iter().enumerate().filter(|(_, k)| k.kind.contains(filter)) {
            for version in kind.versions {
                let sample = SAMPLES.iter().find(|(group, name, _)| *group == kind.group && *name == kind.kind);
                if let Some((.., sample)) = sample {
                    let dice = Dice::new(seed.wrapping_mul(0x1_0001).wrapping_add(number as u64));
                    self.case(kind, version, sample, seed, dice).await?;
                }
            }
        }
        Ok(())
    }

    /// How many requests went to each so far, and what was found.
    pub fn found(&self) -> (usize, Vec<&Found>) {
        let mut all: Vec<&Found> = self.found.values().collect();
        all.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.parting.what.cmp(&b.parting.what)));
        (self.requests, all)
    }

    async fn case(
        &mut self,
        kind: &'static Kind,
        version: &str,
        sample: &str,
        seed: u64,
        mut dice: Dice,
    ) -> Result<(), String> {
        let plan = steps::Plan::new(kind, version, sample, NAMESPACE, &format!("d{seed}x{}", std::process::id()))?;
        let mut scaled = false;
        for step in plan.steps(&mut dice) {
            scaled |= step.method != Method::GET && step.path.contains("/scale");
            // Objects that differ from here on would differ again and again.
            if !self.step(kind, &step, scaled).await? && step.method != Method::GET {
                break;
            }
        }
        if kind.is_stored() {
            for wire in [&self.ours, &self.theirs] {
                remove(wire, &plan.item()).await?;
            }
        }
        Ok(())
    }

    /// What a step changes, as our server has it, and what becomes of it; each has its own identity.
    async fn changed(&self, step: &Step) -> Result<Option<(Value, Value)>, String> {
        let before = self.ours.json(Method::GET, &step.source, &Value::Null).await?.tree();
        let Some(changes) = step.changes.clone().filter(|_| before["kind"] != "Status") else { return Ok(None) };
        let mut after = before.clone();
        step.change(&mut after, changes);
        Ok(Some((before, after)))
    }

    /// What one of them is sent, where `body` was made of `before`, which is ours: the same change of what it has now;
    /// `None`: there is nothing to change.
    async fn translated(wire: &Wire, step: &Step, before: &Value, body: &Value) -> Result<Option<Value>, String> {
        if step.changes.is_none() {
            return Ok(Some(body.clone()));
        }
        let live = wire.json(Method::GET, &step.source, &Value::Null).await?.tree();
        if live["kind"] == "Status" {
            return Ok(None);
        }
        let mut translated = body.clone();
        normal::translate(&mut translated, before, &live);
        Ok(Some(translated))
    }

    /// Whether the objects are the same from here on.
    async fn step(&mut self, kind: &'static Kind, step: &Step, scaled: bool) -> Result<bool, String> {
        let (mut before, mut our_body) = (Value::Null, step.body.clone());
        if step.changes.is_some() {
            let Some(changed) = self.changed(step).await? else { return Ok(true) };
            (before, our_body) = changed;
        }
        let body = our_body.clone();
        let Some(mut their_body) = Self::translated(&self.theirs, step, &before, &body).await? else {
            return Ok(true);
        };
        let (ours, theirs) = futures::join!(send(&self.ours, step, &our_body), send(&self.theirs, step, &their_body));
        let (mut ours, mut theirs) = match (ours?, theirs) {
            // A panic of theirs tells nothing about ours.
            (ours, Err(error)) if error.contains("unexpected internal error") => return Ok(ours.code >= 400),
            (ours, theirs) => (ours, theirs?),
        };
        // Our server may have written a status itself meanwhile.
        for _ in 0..3 {
            let stale = ours.code == 409 && theirs.code != 409 && step.changes.is_some();
            let again = if stale { Self::translated(&self.ours, step, &before, &body).await? } else { None };
            let Some(again) = again else { break };
            our_body = again;
            ours = send(&self.ours, step, &our_body).await?;
        }
        // And so may theirs.
        for _ in 0..3 {
            let stale = theirs.code == 409 && ours.code != 409 && step.changes.is_some();
            let again = if stale { Self::translated(&self.theirs, step, &before, &body).await? } else { None };
            let Some(again) = again else { break };
            their_body = again;
            theirs = send(&self.theirs, step, &their_body).await?;
        }
        self.requests += 1;
        if self.traces {
            let Step { about, method, path, media, .. } = step;
            eprintln!(
                "{about}: {method} {path} [{media}]\n  {our_body}\n  {} {}\n  {} {}",
                ours.code,
                ours.tree(),
                theirs.code,
                theirs.tree()
            );
        }
        let mut partings = compare::compare(&ours, &theirs);
        // What they read from their cache may be a moment behind.
        for _ in 0..CACHED {
            if partings.is_empty() || step.method != Method::GET {
                break;
            }
            ours = send(&self.ours, step, &our_body).await?;
            partings = compare::compare(&ours, &send(&self.theirs, step, &their_body).await?);
        }
        let mut same = true;
        for parting in partings {
            let why = explained::why(&parting, &explained::Asked { path: &step.path, body: &our_body, scaled });
            same &= why.is_some() && !explained::stays(&parting);
            // What is explained must not stand for what is not.
            let place = (parting.what.clone(), why.is_some());
            let found = self.found.entry(place).or_insert_with(|| {
                let body: String = our_body.to_string().chars().take(BODY).collect();
                let Step { about, method, path, media, accept, .. } = step;
                let request = format!("{about}: {method} {path} [{media} {accept}]\n    {body}");
                Found { parting, request, times: 0, kinds: Vec::new(), why }
            });
            found.times += 1;
            if !found.kinds.contains(&kind.kind) {
                found.kinds.push(kind.kind);
            }
        }
        Ok(same)
    }
}

/// One server's answer to a step.
async fn send(wire: &Wire, step: &Step, body: &Value) -> Result<Answer, String> {
    let bytes = if body.is_null() { Vec::new() } else { step.encoded(body) };
    wire.send(Credentials::Own, &step.method, &step.path, (step.media, step.accept), bytes).await
}

/// Takes an object away, whatever holds it.
async fn remove(wire: &Wire, path: &str) -> Result<(), String> {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"});
    let answer = wire.json(Method::DELETE, path, &options).await?;
    if answer.tree().pointer("/metadata/finalizers").is_some() {
        let body = json!({"metadata": {"finalizers": null}}).to_string();
        let types = ("application/merge-patch+json", "application/json");
        wire.send(Credentials::Own, &Method::PATCH, path, types, body).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_sample_and_every_case_repeats_itself() {
        for kind in KINDS.iter().filter(|k| !matches!(k.kind, "Binding" | "ComponentStatus")) {
            let sample = SAMPLES.iter().find(|(group, name, _)| *group == kind.group && *name == kind.kind);
            let (.., sample) = sample.unwrap_or_else(|| panic!("{} has no sample", kind.kind));
            let plan = steps::Plan::new(kind, kind.preferred_version(), sample, NAMESPACE, "x").unwrap();
            for seed in 0..20 {
                let steps =
                    |seed| plan.steps(&mut Dice::new(seed)).iter().map(|s| format!("{s:?}")).collect::<Vec<_>>();
                assert_eq!(steps(seed), steps(seed));
                assert!(!steps(seed).is_empty());
            }
        }
    }
}
