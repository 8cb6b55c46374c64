use serde_json::{Value as Json, json};
use skiff_cel::{Attributes, Authorizer, Decision as Answer, Type};
use skiff_meta::GroupVersionKind;

use super::{Conditions, Input, MutatingPolicy, Mutation, ValidatingPolicy, typing};

/// Lets everybody do nothing but `get`.
#[derive(Debug)]
struct Readers;

impl Authorizer for Readers {
    fn authorize(&self, _account: Option<(&str, &str)>, attributes: &Attributes) -> Answer {
        Answer { allowed: attributes.verb == "get" && attributes.name == "p", ..Answer::default() }
    }
}

fn with<R>(object: &Json, params: &Json, run: impl FnOnce(&Input<'_>) -> R) -> R {
    let request = json!({"operation": "CREATE", "name": "p", "namespace": "n", "userInfo": {"username": "alice"},
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "dryRun": false});
    let namespace = json!({"metadata": {"name": "n", "labels": {"env": "prod"}}});
    let resource = Attributes { resource: "pods".into(), name: "p".into(), ..Attributes::default() };
    run(&Input {
        object,
        old: &Json::Null,
        namespace: &namespace,
        request: &request,
        params,
        authorizer: &Readers,
        resource: &resource,
    })
}

fn refusals(spec: Json, params: Json) -> Vec<(String, String)> {
    let object = json!({"metadata": {"name": "p"}, "spec": {"replicas": 7, "in": [1]}});
    let outcome = with(&object, &params, |input| ValidatingPolicy::read(&json!({"spec": spec})).evaluate(input));
    outcome.refusals.into_iter().map(|(_, decision)| (decision.reason, decision.message)).collect()
}

#[test]
fn validating() {
    let table = [
        (json!({"validations": [{"expression": "object.spec.replicas < 10"}]}), json!(null), vec![]),
        (
            json!({"validations": [{"expression": "object.spec.replicas < 5"}, {"expression": "false", "message": "no ",
                "reason": "Forbidden"}]}),
            json!(null),
            vec![("Invalid", "failed expression: object.spec.replicas < 5"), ("Forbidden", "no")],
        ),
        (
            json!({"paramKind": {"kind": "Limit"}, "validations": [{"expression": "object.spec.replicas <= params.max",
                "messageExpression": "'at most ' + string(params.max)"}]}),
            json!({"max": 3}),
            vec![("Invalid", "at most 3")],
        ),
        (
            json!({"variables": [{"name": "n", "expression": "object.spec.replicas"},
                {"name": "twice", "expression": "variables.n * 2"}], "validations": [
                {"expression": "variables.twice == 14 && variables.n == 7"}, {"expression": "variables.twice == 1"}]}),
            json!(null),
            vec![("Invalid", "failed expression: variables.twice == 1")],
        ),
        (
            json!({"variables": [{"name": "n", "expression": "object.spec.nope"}], "validations": [
                {"expression": "variables.n == 1"}]}),
            json!(null),
            vec![(
                "",
                "expression 'variables.n == 1' resulted in error: composited variable \"n\" fails to evaluate: no such \
                 key: nope",
            )],
        ),
        (json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nope"}]}), json!(null), vec![]),
        (
            json!({"validations": [{"expression": "namespaceObject.metadata.labels['env'] == 'prod' && \
                request.userInfo.username == 'alice' && oldObject == null && !has(request.subResource)"}]}),
            json!(null),
            vec![],
        ),
        (
            json!({"validations": [{"expression": "authorizer.requestResource.check('get').allowed() && \
                !authorizer.group('').resource('pods').check('get').allowed()"}]}),
            json!(null),
            vec![],
        ),
        (
            json!({"matchConditions": [{"name": "c", "expression": "request.operation == 'UPDATE'"}],
                "validations": [{"expression": "false"}]}),
            json!(null),
            vec![],
        ),
        (
            json!({"matchConditions": [{"name": "c", "expression": "object.x == 1"}], "validations": []}),
            json!(null),
            vec![("", "expression 'object.x == 1' resulted in error: no such key: x")],
        ),
    ];
    for (spec, params, wanted) in table {
        let found = refusals(spec.clone(), params);
        let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(found, wanted, "{spec}");
    }
}

#[test]
fn annotations_are_told() {
    let policy = json!({"spec": {"auditAnnotations": [
        {"key": "a", "valueExpression": "'r=' + string(object.r)"}, {"key": "b", "valueExpression": "null"},
        {"key": "c", "valueExpression": "object.nope"}]}});
    let outcome = with(&json!({"r": 1}), &Json::Null, |input| ValidatingPolicy::read(&policy).evaluate(input));
    assert_eq!(outcome.annotations[0], ("a".to_owned(), Ok("r=1".to_owned())));
    assert_eq!(outcome.annotations.len(), 2);
    assert!(outcome.annotations[1].1.is_err());
}

#[test]
fn mutating() {
    let policy = json!({"spec": {"mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{metadata: Object.metadata{labels: {'who': request.userInfo.username}}, spec: Object.spec{n: 1}}"}},
        {"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]"}},
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.status{}}"}}]}});
    let policy = MutatingPolicy::read(&policy);
    let found: Vec<_> = (0..3).map(|i| with(&json!({}), &Json::Null, |input| policy.mutate(i, input))).collect();
    let applied = json!({"metadata": {"labels": {"who": "alice"}}, "spec": {"n": 1}});
    assert_eq!(found[0], Ok(Some(Mutation::Apply(applied))));
    let patch = json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "x"}]);
    assert_eq!(found[1], Ok(Some(Mutation::Patch(patch))));
    let why = "unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path from root \
               Object type";
    assert_eq!(found[2], Err(why.to_owned()));
}

#[test]
fn conditions_of_webhooks() {
    let holds = |list: Json| with(&json!({"a": 1}), &Json::Null, |input| Conditions::of_webhook(&list).hold(input));
    assert_eq!(holds(json!([])), Ok(true));
    assert_eq!(
        holds(json!([{"expression": "object.a == 1"}, {"expression": "object.b == 1"}, {"expression": "false"}])),
        Ok(false)
    );
    assert!(holds(json!([{"expression": "object.b == 1"}])).unwrap_err().contains("no such key: b"));
    assert!(holds(json!([{"expression": "params == null"}])).unwrap_err().starts_with("compilation error: "));
}

#[test]
fn faults_of_policies() {
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    let policy = json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail", "matchConstraints": {
        "matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": rules},
        "variables": [{"name": "a", "expression": "1 + 'x'"}, {"name": "b", "expression": "variables.a + 1"}],
        "validations": [{"expression": "1"}, {"expression": "params.x"}, {"expression": "variables.b == 2",
            "messageExpression": "authorizer.path('/').check('get').reason()"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
        "matchConditions": [{"name": "c", "expression": "variables.a == 1"}]}});
    let rules =
        crate::rules_for(&skiff_meta::GroupKind::new("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"));
    let found: Vec<String> = rules.validate_create(&policy).iter().map(ToString::to_string).collect();
    let firsts: Vec<&str> = found.iter().map(|text| text.lines().next().unwrap_or_default()).collect();
    let wanted = [
        "spec.matchConditions[0].expression: Invalid value: \"variables.a == 1\": compilation failed: ERROR: \
         <input>:1:1: undeclared reference to 'variables' (in container '')",
        "spec.variables[0].expression: Invalid value: \"1 + 'x'\": compilation failed: ERROR: <input>:1:3: found no \
         matching overload for '_+_' applied to '(int, string)'",
        "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool but got int",
        "spec.validations[1].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: \
         undeclared reference to 'params' (in container '')",
        "spec.validations[2].messageExpression: Invalid value: \"authorizer.path('/').check('get').reason()\": \
         compilation failed: ERROR: <input>:1:1: undeclared reference to 'authorizer' (in container '')",
        "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null_type] but \
         got int",
    ];
    assert_eq!(firsts, wanted);
}

/// Deployments, pods, config maps, and a kind of somebody's own.
struct Few;

impl typing::Kinds for Few {
    fn named(&self, group: &str, version: &str, resource: &str) -> Vec<GroupVersionKind> {
        let all = [("apps", "deployments", "Deployment"), ("", "pods", "Pod"), ("x.io", "crontabs", "CronTab")];
        let fits = |(at, plural, kind): &(&str, &str, &str)| {
            (group.is_empty() || group == *at)
                && version == "v1"
                && (resource == *plural || *resource == kind.to_lowercase())
        };
        all.iter().filter(|known| fits(known)).map(|(at, _, kind)| GroupVersionKind::new(*at, "v1", *kind)).collect()
    }

    fn declared(&self, kind: &GroupVersionKind) -> Option<Type> {
        if kind.group != "x.io" {
            return skiff_api::facts::schema(kind).map(|schema| typing::built_in(&schema, &kind.kind));
        }
        let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer"},
            "since": {"type": "string", "format": "date-time"}}});
        Some(typing::defined(&json!({"type": "object", "properties": {"spec": spec}}), &kind.kind))
    }
}

#[test]
fn expressions_are_checked_against_the_kinds_they_match() {
    let warned = |resources: Json, validation: Json, more: Json| {
        let rule = json!({"apiGroups": resources[0], "apiVersions": ["v1"], "resources": resources[1]});
        let mut spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]});
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        let found = typing::warnings(&json!({"spec": spec}), &Few);
        let told = |found: &Json| {
            let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
            let warning = text("warning");
            let messages = warning.lines().filter(|l| !l.starts_with(" | ") && !l.is_empty()).map(str::to_owned);
            (text("fieldRef"), messages.collect::<Vec<_>>())
        };
        found.iter().map(told).collect::<Vec<_>>()
    };
    let deployments = || json!([["apps"], ["deployments"]]);
    let field = "spec.validations[0].expression";
    let apps = "apps/v1, Kind=Deployment: ERROR: <input>:1:";
    for (resources, validation, more, wanted) in [
        (
            deployments(),
            json!({"expression": "object.spec.replicas > 1 && oldObject.metadata.name == ''"}),
            json!(null),
            vec![],
        ),
        (
            deployments(),
            json!({"expression": "object.spec.replicas > '1'", "messageExpression": "'n: ' + object.spec.replicas"}),
            json!(null),
            vec![
                (field, vec![format!("{apps}22: found no matching overload for '_>_' applied to '(int, string)'")]),
                (
                    "spec.validations[0].messageExpression",
                    vec![format!("{apps}7: found no matching overload for '_+_' applied to '(string, int)'")],
                ),
            ],
        ),
        // Kinds that are not known, wildcards and subresources are passed over; an empty group stands for any.
        (
            json!([["apps"], ["nothings", "deployments/scale", "*"]]),
            json!({"expression": "object.nope"}),
            json!(null),
            vec![],
        ),
        (json!([["*"], ["deployments"]]), json!({"expression": "object.nope"}), json!(null), vec![]),
        (
            json!([[""], ["pods", "deployments"]]),
            json!({"expression": "object.spec.replicas == 1"}),
            json!(null),
            vec![(field, vec!["/v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'replicas'".to_owned()])],
        ),
        (
            json!([["apps"], ["deployments"]]),
            json!({"expression": "variables.n < params.data.size() && params.nope == 1"}),
            json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}],
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}),
            vec![(field, vec![format!("{apps}43: undefined field 'nope'")])],
        ),
        (
            json!([["x.io"], ["crontabs"]]),
            json!({"expression": "object.spec.since < timestamp('2020-01-01T00:00:00Z') && object.spec.maxRetries > 1 \
                && object.metadata.labels['a'] == ''"}),
            json!(null),
            vec![(field, vec!["x.io/v1, Kind=CronTab: ERROR: <input>:1:69: undefined field 'maxRetries'".to_owned()])],
        ),
        (
            deployments(),
            json!({"expression": "authorizer.group('').resource('pods').check('get').allowed() && \
                object.spec.template.spec.containers.all(c, c.ports.exists(p, p.containerPort == 1)) && \
                object.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z') && \
                object.spec.strategy.rollingUpdate.maxSurge == 1"}),
            json!(null),
            vec![],
        ),
    ] {
        let found = warned(resources, validation.clone(), more);
        let wanted: Vec<_> = wanted.into_iter().map(|(field, said)| (field.to_owned(), said)).collect();
        assert_eq!(found, wanted, "{validation}");
    }
}
