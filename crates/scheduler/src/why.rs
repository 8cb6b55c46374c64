//! Why a pod is where it is, or is not anywhere: per node the first plugin that said no, with its numbers; and for a pod
//! that was placed, the scores that won.
//!
//! Answered by the task that decides, from the very state it decides by.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::channel::{mpsc, oneshot};
use futures::{SinkExt, StreamExt};
use serde::Serialize;

use crate::cluster::{Cluster, NodeIx, PodInfo};
use crate::decide::{Attempt, Refused, Scored, score};
use crate::profile::Profile;
use crate::queue::Nominator;

/// How many placements are remembered with their scores.
const REMEMBERED: usize = 1024;
/// How many nodes besides the one that won are remembered of each.
const RIVALS: usize = 2;

/// An answer, as people and programs read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// `namespace/name`.
    pub pod: String,
    /// The node it is on, or about to be bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The node it waits for room on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nominated_node: Option<String>,
    /// What holds for all nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Nodes that cannot take it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// Nodes that could take it, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<NodeScores>,
}

/// A node that cannot take the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The node.
    pub node: String,
    /// The first plugin that said no.
    pub plugin: String,
    /// What it said.
    pub reasons: Vec<String>,
    /// The numbers that led to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A node that could take the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeScores {
    /// The node.
    pub node: String,
    /// The sum.
    pub total: i64,
    /// What each plugin gave, weighted.
    pub plugins: Vec<(&'static str, i64)>,
}

/// A question, with where the answer goes.
pub struct Question {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where the answer goes: nothing for a pod that is unknown here.
    pub answer: oneshot::Sender<Option<Why>>,
}

/// Questions, as they come in.
pub type Questions = mpsc::Receiver<Question>;

/// Asks the scheduler.
#[derive(Clone)]
pub struct Asker(mpsc::Sender<Question>);

/// One who asks, and what the scheduler is to be given.
pub fn channel() -> (Asker, Questions) {
    let (send, receive) = mpsc::channel(16);
    (Asker(send), receive)
}

impl Asker {
    /// Why a pod is where it is; nothing when the scheduler knows no such pod, or does not run.
    pub async fn ask(&self, namespace: &str, name: &str) -> Option<Why> {
        let (answer, answered) = oneshot::channel();
        let question = Question { namespace: namespace.to_owned(), name: name.to_owned(), answer };
        self.0.clone().send(question).await.ok()?;
        answered.await.ok().flatten()
    }
}

/// The next question; never, when nobody can ask any more.
pub(crate) async fn next(questions: &mut Option<Questions>) -> Question {
    if let Some(receiver) = questions {
        if let Some(question) = receiver.next().await {
            return question;
        }
        *questions = None;
    }
    futures::future::pending().await
}

/// The scores of the latest placements.
#[derive(Debug, Default)]
pub(crate) struct Won(VecDeque<(String, Vec<NodeScores>)>);

impl Won {
    /// Remembers what won, and what came next.
    pub(crate) fn remember(&mut self, uid: &str, node: NodeIx, scored: &Scored, profile: &Profile, cluster: &Cluster) {
        let mut order: Vec<usize> = (0..scored.nodes.len()).filter(|place| scored.nodes[*place] != node).collect();
        if order.len() > RIVALS {
            order.select_nth_unstable_by_key(RIVALS, |place| -scored.totals[*place]);
            order.truncate(RIVALS);
        }
        order.sort_by_key(|place| -scored.totals[*place]);
        let winner = scored.nodes.iter().position(|known| *known == node);
        let lines = winner.into_iter().chain(order).map(|place| line(scored, place, profile, cluster)).collect();
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((uid.to_owned(), lines));
    }

    fn of(&self, uid: &str) -> Vec<NodeScores> {
        self.0.iter().rev().find(|(known, _)| known == uid).map(|(_, lines)| lines.clone()).unwrap_or_default()
    }
}

fn line(scored: &Scored, place: usize, profile: &Profile, cluster: &Cluster) -> NodeScores {
    let plugins = scored.parts.iter().map(|(plugin, scores)| (profile.plugin_name(*plugin), scores[place]));
    NodeScores {
        node: cluster.at(scored.nodes[place]).name.clone(),
        total: scored.totals[place],
        plugins: plugins.collect(),
    }
}

/// About a pod that has a node.
pub(crate) fn placed(pod: &PodInfo, node: &str, won: &Won) -> Why {
    let scores = won.of(&pod.uid);
    let message = if scores.is_empty() {
        Some(
            "its placement is not remembered here: there was no choice, or it was made long ago or elsewhere"
                .to_owned(),
        )
    } else {
        None
    };
    Why { pod: pod.key.clone(), node: Some(node.to_owned()), message, scores, ..Why::default() }
}

/// About a pod that waits: every node is asked.
pub(crate) fn waiting(profile: &Profile, cluster: &mut Cluster, nominated: &Nominator, pod: &Arc<PodInfo>) -> Why {
    let nominated_node = nominated.node_of(&pod.uid).map(str::to_owned);
    let mut why = Why { pod: pod.key.clone(), nominated_node, ..Why::default() };
    if pod.is_gated() {
        why.message = Some("it is held back by its scheduling gates".to_owned());
        return why;
    }
    cluster.sort();
    let mut attempt = match Attempt::begin(profile, pod, cluster) {
        Ok(attempt) => attempt,
        Err(Refused { place, why: text, .. }) => {
            why.message = Some(format!("{}: {text}", profile.plugin_name(place)));
            return why;
        }
    };
    let (mut fitting, mut reasons) = (Vec::new(), Vec::new());
    for node in cluster.order().iter().map(|ix| cluster.at(*ix)) {
        reasons.clear();
        let outside = attempt.only.as_ref().is_some_and(|names| !names.contains(&node.name));
        match attempt.check_after(cluster, node, nominated, &mut reasons) {
            None if outside => {}
            None => fitting.push(node.ix),
            Some((place, _)) => {
                let part = attempt.parts.iter().find(|part| part.place == place);
                why.refusals.push(Refusal {
                    node: node.name.clone(),
                    plugin: profile.plugin_name(place).to_owned(),
                    reasons: reasons.iter().map(ToString::to_string).collect(),
                    detail: part.and_then(|part| part.cycle.explain(cluster, node)),
                });
            }
        }
    }
    if !fitting.is_empty() {
        let scored = score(&mut attempt, cluster, &fitting);
        let mut lines: Vec<NodeScores> =
            (0..fitting.len()).map(|place| line(&scored, place, profile, cluster)).collect();
        lines.sort_by_key(|line| -line.total);
        why.scores = lines;
        why.message = Some("there is room for it: it is about to be tried".to_owned());
    }
    why.refusals.sort_by(|a, b| a.node.cmp(&b.node));
    why
}
