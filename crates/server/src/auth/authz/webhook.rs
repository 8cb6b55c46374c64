//! May they, asks another server: by SubjectAccessReviews
//! (upstream: `k8s.io/apiserver/plugin/pkg/authorizer/webhook`).

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use skiff_cel::{Budget, PER_CALL_LIMIT, Value};
use skiff_meta::WorldRef;
use skiff_meta::selector::{FieldSelector, FieldTerm, LabelSelector, Operator, Requirement};
use skiff_meta::world::WorldExt;

use super::config::Hook;
use crate::chain::{Attributes, Authorizer, Decision};

/// Answers that are kept.
const KEPT: usize = 8_192;
/// A question that is longer is asked each time.
const KEPT_BYTES: usize = 10_000;
/// The largest answer.
const LONGEST_ANSWER: usize = 1 << 20;
/// How often one that does not come through is asked, and the pause before the second time; later ones are half as long
/// again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// A server that decides.
pub(super) struct Webhook {
    hook: Hook,
    world: WorldRef,
    answers: Mutex<HashMap<String, (Decision, Timestamp)>>,
}

impl Webhook {
    pub(super) fn new(hook: Hook, world: WorldRef) -> Self {
        Self { hook, world, answers: Mutex::default() }
    }

    /// Whether it is to be asked.
    fn is_asked(&self, spec: &Json) -> Result<bool, String> {
        let mut failure = None;
        for program in &*self.hook.conditions {
            match program.evaluate(&[Some(Value::json(spec))], &mut Budget::new(PER_CALL_LIMIT)) {
                Ok(value) if value.to_json() == Some(Json::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        failure.map_or(Ok(true), Err)
    }

    fn kept(&self, question: &str) -> Option<Decision> {
        let now = self.world.now();
        let answers = self.answers.lock();
        answers.get(question).filter(|(_, until)| now < *until).map(|(decision, _)| decision.clone())
    }

    fn keep(&self, question: String, decision: &Decision) {
        let time = match decision {
            Decision::Allow(_) => self.hook.allowed_for,
            Decision::Deny(_) | Decision::NoOpinion(_) => self.hook.refused_for,
        };
        let now = self.world.now();
        let Ok(until) = now.checked_add(time) else { return };
        if time.is_zero() || question.len() > KEPT_BYTES {
            return;
        }
        let mut answers = self.answers.lock();
        if answers.len() >= KEPT {
            answers.retain(|_, (_, until)| now < *until);
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        answers.insert(question, (decision.clone(), until));
    }

    /// Asks until an answer comes through; who does not answer in time is not asked again.
    async fn ask(&self, spec: &str) -> Result<Decision, String> {
        let head = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":"#;
        let body = Bytes::from(format!("{head}{spec}}}"));
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.send(&body).await? {
                Ok(decision) => return Ok(decision),
                Err(why) => tracing::debug!("authorizer {} is asked again: {why}", self.hook.name),
            }
            self.world.sleep(pause).await;
            pause = pause * 3 / 2;
        }
        self.send(&body).await?
    }

    /// The inner error is one that may pass.
    async fn send(&self, body: &Bytes) -> Result<Result<Decision, String>, String> {
        let request = Request::post("/").header(header::CONTENT_TYPE, "application/json").body(body.clone());
        let request = request.map_err(|e| e.to_string())?;
        let answer = async {
            let answer = match self.hook.server.send(request).await {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let status = answer.status();
            if status.is_server_error() || status.as_u16() == 429 {
                return Ok(Err(format!("it answers {status}")));
            }
            if !status.is_success() {
                return Err(format!("it answers {status}"));
            }
            let (mut body, mut text) = (answer.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                match frame.map(|frame| frame.into_data().unwrap_or_default()) {
                    Ok(data) if text.len() + data.len() <= LONGEST_ANSWER => text.extend_from_slice(&data),
                    Ok(_) => return Err("its answer is too long".to_owned()),
                    Err(error) => return Ok(Err(error.to_string())),
                }
            }
            let review: Json = serde_json::from_slice(&text).map_err(|e| format!("its answer is no review: {e}"))?;
            decision(&review["status"]).map(Ok)
        };
        self.world.timeout(self.hook.timeout, answer).await.unwrap_or_else(|| Err("it does not answer".to_owned()))
    }
}

#[async_trait]
impl Authorizer for Webhook {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let failed = |why: String| {
            tracing::warn!("authorizer {}: {why}", self.hook.name);
            match self.hook.denies_when_failing {
                true => Decision::Deny(String::new()),
                false => Decision::NoOpinion(String::new()),
            }
        };
        let spec = spec(attributes);
        match self.is_asked(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return failed(why),
        }
        let question = spec.to_string();
        if let Some(decision) = self.kept(&question) {
            return decision;
        }
        match self.ask(&question).await {
            Ok(decision) => {
                self.keep(question, &decision);
                decision
            }
            Err(why) => failed(why),
        }
    }
}

/// What the review asks.
fn spec(attributes: &Attributes<'_>) -> Json {
    let Attributes { user, verb, group, version, resource, subresource, namespace, name, fields, labels, path } =
        attributes;
    let mut spec = json!({"user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
    match resource.is_empty() {
        true => spec["nonResourceAttributes"] = json!({"path": path, "verb": verb}),
        false => {
            spec["resourceAttributes"] = json!({"verb": verb, "group": group, "version": version,
                "resource": resource, "subresource": subresource, "namespace": namespace, "name": name});
            for (selector, requirements) in [("fieldSelector", of_fields(fields)), ("labelSelector", of_labels(labels))]
            {
                if !requirements.is_empty() {
                    spec["resourceAttributes"][selector] = json!({"requirements": requirements});
                }
            }
        }
    }
    spec
}

/// What is asked of fields. A selector that cannot be read is left out: the question is the broader one then.
fn of_fields(text: &str) -> Vec<Json> {
    let selector = FieldSelector::parse(text).unwrap_or_default();
    let requirement = |term: &FieldTerm| {
        let operator = if term.negated { "NotIn" } else { "In" };
        json!({"key": term.field, "operator": operator, "values": [term.value]})
    };
    selector.terms().iter().map(requirement).collect()
}

/// What is asked of labels; comparisons of numbers are left out as well.
fn of_labels(text: &str) -> Vec<Json> {
    let Ok(selector) = LabelSelector::parse(text) else { return Vec::new() };
    let requirement = |requirement: &Requirement| {
        let operator = match requirement.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut shown = json!({"key": requirement.key, "operator": operator});
        if !requirement.values.is_empty() {
            shown["values"] = json!(requirement.values);
        }
        Some(shown)
    };
    selector.requirements().iter().filter_map(requirement).collect()
}

fn decision(status: &Json) -> Result<Decision, String> {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Err("it says allowed and denied".to_owned()),
        (true, false) => Ok(Decision::Allow(reason)),
        (false, true) => Ok(Decision::Deny(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use futures::stream::BoxStream;
    use futures::{FutureExt, StreamExt};
    use http::Response;
    use skiff_client::{Backend, Body, ClientError, Event, ListTarget};

    use super::super::config::{Asked, AuthorizationConfig};
    use super::*;
    use crate::auth::testing::{Frozen, block_on};
    use crate::chain::User;

    /// Says of alice yes, of mallory no, of others nothing; of nobody anything when it is broken.
    #[derive(Default)]
    struct Server {
        asked: Mutex<Vec<Json>>,
        broken: bool,
    }

    impl Backend for Server {
        fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
            let review: Json = serde_json::from_slice(request.body()).unwrap();
            let user = review["spec"]["user"].as_str().unwrap();
            let status = match user {
                "alice" => json!({"allowed": true}),
                "mallory" => json!({"denied": true, "reason": "known"}),
                _ => json!({"allowed": false}),
            };
            let answer = if self.broken { "<html>".to_owned() } else { json!({"status": status}).to_string() };
            self.asked.lock().push(review);
            let body = http_body_util::Full::new(Bytes::from(answer)).map_err(|never| match never {}).boxed_unsync();
            async { Ok(Response::new(body)) }.boxed()
        }
        fn list_watch(&self, _target: ListTarget) -> BoxStream<'static, Event> {
            futures::stream::pending().boxed()
        }
        fn remote(&self) -> Option<Arc<skiff_client::config::Remote>> {
            None
        }
    }

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";

    fn hook(more: &str) -> String {
        format!(
            "{HEAD}- type: Webhook\n  name: w\n  webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, \
            matchConditionSubjectAccessReviewVersion: v1, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: k}}, \
            failurePolicy: {more}}}\n"
        )
    }

    fn webhook(server: Arc<Server>, world: Arc<Frozen>, more: &str) -> Webhook {
        let config = AuthorizationConfig::read(&hook(more), &|_| Ok(server.clone())).unwrap();
        let Some(Asked::Webhook(hook)) = config.0.into_iter().next() else { panic!("no webhook") };
        Webhook::new(hook, world)
    }

    fn ask(webhook: &Webhook, name: &str, namespace: &str) -> Decision {
        let user = User { name: name.to_owned(), ..User::default() };
        let attributes = Attributes {
            user: &user,
            verb: "get",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace,
            name: "p",
            fields: "",
            labels: "",
            path: "",
        };
        block_on(webhook.authorize(&attributes))
    }

    #[test]
    fn it_is_asked_about_what_fits_and_its_answers_are_kept() {
        let (server, world) = (Arc::new(Server::default()), Frozen::at(1_800_000_000));
        let only = "Deny, matchConditions: [{expression: \"has(request.resourceAttributes)\"}, \
            {expression: \"request.resourceAttributes.namespace == 'a'\"}]";
        let webhook = webhook(server.clone(), world.clone(), only);
        let nothing = || Decision::NoOpinion(String::new());
        for (user, namespace, expected, asked) in [
            ("alice", "b", nothing(), 0),
            ("alice", "a", Decision::Allow(String::new()), 1),
            ("alice", "a", Decision::Allow(String::new()), 1),
            ("mallory", "a", Decision::Deny("known".to_owned()), 2),
            ("bob", "a", nothing(), 3),
        ] {
            assert_eq!(ask(&webhook, user, namespace), expected, "{user} in {namespace}");
            assert_eq!(server.asked.lock().len(), asked, "{user} in {namespace}");
        }
        assert_eq!(server.asked.lock()[0]["spec"]["resourceAttributes"]["resource"], "pods");
        // A yes counts for five minutes, all else for half a one.
        world.advance(31);
        ask(&webhook, "alice", "a");
        ask(&webhook, "mallory", "a");
        assert_eq!(server.asked.lock().len(), 4);
        world.advance(300);
        ask(&webhook, "alice", "a");
        assert_eq!(server.asked.lock().len(), 5);
    }

    #[test]
    fn selectors_are_told_as_requirements() {
        let user = User::default();
        let base = Attributes {
            user: &user,
            verb: "list",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "a",
            name: "",
            fields: "spec.nodeName=n,status.phase!=Failed",
            labels: "a in (x,y),!b,c>1",
            path: "",
        };
        let asked = &spec(&base)["resourceAttributes"];
        let fields = json!([{"key": "spec.nodeName", "operator": "In", "values": ["n"]},
            {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]);
        let labels =
            json!([{"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "DoesNotExist"}]);
        assert_eq!(
            (&asked["fieldSelector"]["requirements"], &asked["labelSelector"]["requirements"]),
            (&fields, &labels)
        );
        // What cannot be read is not told.
        let odd = spec(&Attributes { fields: "a", labels: "in (", ..base });
        assert_eq!(odd["resourceAttributes"].as_object().map(serde_json::Map::len), Some(7));
    }

    #[test]
    fn without_an_answer_the_policy_decides() {
        for (policy, expected) in [
            ("Deny", Decision::Deny(String::new())),
            ("NoOpinion", Decision::NoOpinion(String::new())),
            // What cannot be evaluated is as good as no answer.
            ("Deny, matchConditions: [{expression: \"1/0 == 1\"}]", Decision::Deny(String::new())),
        ] {
            let server = Arc::new(Server { broken: true, ..Server::default() });
            let webhook = webhook(server, Frozen::at(1_800_000_000), policy);
            assert_eq!(ask(&webhook, "alice", "a"), expected, "{policy}");
        }
    }

    #[test]
    fn webhooks_come_and_go_and_nobody_else() {
        let connect = |_: &str| Ok(Arc::new(Server::default()) as Arc<dyn Backend>);
        let first = AuthorizationConfig::read(&format!("{HEAD}- type: Node\n- type: RBAC\n"), &connect).unwrap();
        let hooked = hook("Deny");
        for (text, fine) in [
            (format!("{hooked}- type: RBAC\n- type: Node\n"), true),
            (hooked.clone(), false),
            (format!("{hooked}- type: RBAC\n- type: Node\n- type: AlwaysAllow\n"), false),
        ] {
            assert_eq!(AuthorizationConfig::read_again(&text, &connect, &first).is_ok(), fine, "{text}");
        }
    }

    #[test]
    fn files_that_cannot_be_are_refused() {
        for (text, why) in [
            (HEAD.replace("authorizers:", "authorizers: []"), "at least one"),
            (format!("{HEAD}- type: Node\n- type: Node\n"), "authorizers[1].type: Duplicate value: \"Node\""),
            (format!("{HEAD}- type: ABAC\n"), "authorizers[0].type: \"ABAC\" is none of"),
            (format!("{HEAD}- type: Webhook\n  name: w\n"), "authorizers[0].webhook: must be there"),
            (hook("Perhaps"), "webhook.failurePolicy: \"Perhaps\" must be NoOpinion or Deny"),
            (hook("Deny").replace("timeout: 3s", "timeout: 1h"), "must be at most 30s"),
            (hook("Deny").replace("name: w", "name: W"), "must be a DNS subdomain"),
            (hook("Deny, matchConditions: [{expression: request.other}]"), "matchConditions[0].expression"),
            (hook("Deny, matchConditions: [{expression: request.user}]"), "must evaluate to bool"),
        ] {
            let connect = |_: &str| Ok(Arc::new(Server::default()) as Arc<dyn Backend>);
            let error = AuthorizationConfig::read(&text, &connect).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
