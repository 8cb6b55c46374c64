//! What a Secret with a token is to hold, and when it may go. Pure.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use serde_json::Value;
use skiff_client::{Key, Kind};

const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
pub(super) const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// How long a token lies unused before it is good no more, and then again before it goes.
const PERIOD_DAYS: i64 = 365;

/// The account a Secret names, and the UID it has to have, if any.
pub(super) fn account_of(secret: &Secret) -> Option<(Key, Option<&str>)> {
    let annotations = secret.metadata.annotations.as_ref()?;
    let name = annotations.get(NAME).filter(|name| !name.is_empty())?;
    let uid = annotations.get(UID).map(String::as_str).filter(|uid| !uid.is_empty());
    Some((Key::new(secret.namespace(), &**name), uid))
}

/// The Secret with all it is to hold; `None`: it does, or nothing can be signed.
pub(super) fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    authority: Option<&ByteString>,
    sign: impl FnOnce() -> Option<String>,
) -> Option<Secret> {
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).filter(|bytes| !bytes.0.is_empty());
    let mut new = Vec::new();
    if let Some(authority) = authority.filter(|authority| held("ca.crt") != Some(authority)) {
        new.push(("ca.crt", authority.clone()));
    }
    if held("namespace").is_none() {
        new.push(("namespace", ByteString(account.namespace().into())));
    }
    if held("token").is_none() {
        new.push(("token", ByteString(sign()?.into_bytes())));
    }
    if new.is_empty() {
        return None;
    }
    let mut filled = secret.clone();
    filled.data.get_or_insert_default().extend(new.into_iter().map(|(key, bytes)| (key.to_owned(), bytes)));
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(NAME.to_owned(), account.name().to_owned());
    annotations.insert(UID.to_owned(), account.uid().to_owned());
    Some(filled)
}

/// What becomes of a token that may lie unused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// From this day on it is good no more.
    Mark(String),
    Delete,
}

fn day(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

fn before(now: Timestamp) -> Timestamp {
    now.checked_sub((PERIOD_DAYS * 24).hours()).unwrap_or(Timestamp::MIN)
}

/// Whether uses are known for long enough: from the day after `since`, which the ConfigMap names.
pub(super) fn known_for_long(since: &str, now: Timestamp) -> bool {
    since.parse::<Date>().is_ok_and(|since| since < day(before(now)))
}

/// Judges a token that was made for its account, not by somebody's hand, and that no pod mounts.
pub(super) fn verdict(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: &BTreeSet<String>,
    now: Timestamp,
) -> Verdict {
    let (limit, name) = (before(now), secret.name());
    let young = secret.metadata.creation_timestamp.as_ref().is_none_or(|made| made.0 >= limit);
    let label = |name: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let used = label(LAST_USED).is_some_and(|last| last.parse::<Date>().map_or(true, |last| last >= day(limit)));
    let of_account = account
        .is_some_and(|account| account.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(name)));
    if young || used || secret.deleting() || !of_account || mounted.contains(name) {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).and_then(|since| since.parse::<Date>().ok()) {
        None => Verdict::Mark(day(now).to_string()),
        Some(since) if since >= day(limit) => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

/// The Secrets that a pod names, wherever it may.
pub(super) fn secrets_of(pod: &Pod, into: &mut BTreeSet<String>) {
    fn walk(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, into)),
            Value::Object(members) => {
                for (name, member) in members {
                    let named = match name.as_str() {
                        "secretName" => member.as_str(),
                        "secret" => member["name"].as_str(),
                        name if name.ends_with("ecretRef") || name == "secretKeyRef" => member["name"].as_str(),
                        _ => None,
                    };
                    into.extend(named.map(str::to_owned));
                    walk(member, into);
                }
            }
            _ => {}
        }
    }
    let Some(spec) = &pod.spec else { return };
    into.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    walk(&serde_json::to_value(spec).unwrap_or_default(), into);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(change: Value) -> Secret {
        let secret = json!({"metadata": {"name": "t", "namespace": "n", "creationTimestamp": "2020-01-01T00:00:00Z",
            "annotations": {NAME: "a"}}});
        serde_json::from_value(skiff_meta::patch::merge_patch(&secret, &change)).unwrap()
    }

    fn account(secrets: Value) -> ServiceAccount {
        let metadata = json!({"name": "a", "namespace": "n", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "secrets": secrets})).unwrap()
    }

    #[test]
    fn secrets_are_filled_once() {
        let (account, authority) = (account(json!([])), ByteString(b"PEM".to_vec()));
        let sign = || Some("signed".to_owned());
        let once = filled(&secret(json!({})), &account, Some(&authority), sign).unwrap();
        let data = once.data.as_ref().unwrap();
        assert_eq!(
            data.iter().map(|(key, value)| (key.as_str(), &*value.0)).collect::<Vec<_>>(),
            [("ca.crt", &b"PEM"[..]), ("namespace", b"n"), ("token", b"signed")]
        );
        assert_eq!(account_of(&once).unwrap(), (Key::new("n", "a"), Some("u")));
        assert_eq!(filled(&once, &account, Some(&authority), || None), None);
        assert_eq!(filled(&secret(json!({})), &account, None, || None), None);
        assert!(filled(&once, &account, Some(&ByteString(b"NEW".to_vec())), || None).is_some());
    }

    #[test]
    fn tokens_that_lie_unused() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let labels =
            |used: &str, invalid: &str| json!({"metadata": {"labels": {LAST_USED: used, INVALID_SINCE: invalid}}});
        let own = json!([{"name": "t"}]);
        let marked = Verdict::Mark("2026-01-01".to_owned());
        for (change, secrets, mounted, expected) in [
            (json!({}), &own, "", &marked),
            (labels("2024-12-31", "x"), &own, "", &marked),
            (labels("2025-01-01", "x"), &own, "", &Verdict::Keep),
            (labels("someday", "2020-01-01"), &own, "", &Verdict::Keep),
            (labels("2024-01-01", "2025-01-01"), &own, "", &Verdict::Keep),
            (labels("2024-01-01", "2024-12-31"), &own, "", &Verdict::Delete),
            (json!({"metadata": {"creationTimestamp": "2025-06-01T00:00:00Z"}}), &own, "", &Verdict::Keep),
            (json!({}), &json!([]), "", &Verdict::Keep),
            (json!({}), &own, "t", &Verdict::Keep),
        ] {
            let mounted = BTreeSet::from([mounted.to_owned()]);
            let found = verdict(&secret(change.clone()), Some(&account(secrets.clone())), &mounted, now);
            assert_eq!(&found, expected, "{change}");
        }
        assert_eq!(verdict(&secret(json!({})), None, &BTreeSet::new(), now), Verdict::Keep);
        assert!(known_for_long("2024-12-31", now) && !known_for_long("2025-01-01", now) && !known_for_long("x", now));
    }

    #[test]
    fn where_pods_name_secrets() {
        let pod = json!({"spec": {"imagePullSecrets": [{"name": "a"}],
            "volumes": [{"name": "v", "secret": {"secretName": "b"}},
                {"name": "w", "projected": {"sources": [{"secret": {"name": "c"}}]}},
                {"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "e"}}}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "f"}}],
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "g", "key": "k"}}}]}]}});
        let mut found = BTreeSet::new();
        secrets_of(&serde_json::from_value(pod).unwrap(), &mut found);
        assert_eq!(found.into_iter().collect::<String>(), "abcefg");
    }
}
