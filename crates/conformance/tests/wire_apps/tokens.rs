//! Tokens that controllers make, sign with and take away.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::support::{Api as Run, Seen, accepted, expect};
use crate::{Kind, at};

const SECRETS: Kind = Kind("", "v1", "secrets", "Secret");
const MAPS: Kind = Kind("", "v1", "configmaps", "ConfigMap");

pub(crate) fn account_tokens(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let secrets = format!("{path}/secrets");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let made = run.post(&format!("{path}/serviceaccounts"), &account)?;
    accepted(&made)?;
    let uid = made.tree()["metadata"]["uid"].clone();
    let secret = |name: &str, account: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}})
    };
    accepted(&run.post(&secrets, &secret("token", "robot"))?)?;
    accepted(&run.post(&secrets, &secret("lost", "nobody"))?)?;
    let filled = |seen: &Seen| !at(seen, "token")["data"]["token"].is_null() && !seen.contains_key("lost");
    let seen = run.see("a token, and none of nobody", SECRETS.gvr(), &path, filled)?;
    let token = at(&seen, "token");
    let has = |field: &str| !token["data"][field].as_str().unwrap_or_default().is_empty();
    if token["metadata"]["annotations"]["kubernetes.io/service-account.uid"] != uid
        || !has("namespace")
        || !has("ca.crt")
    {
        return Err(format!("{token}"));
    }
    let text = BASE64_STANDARD.decode(token["data"]["token"].as_str().unwrap_or_default());
    let text = String::from_utf8(text.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": text}});
    let asked = || run.post("/apis/authentication.k8s.io/v1/tokenreviews", &review);
    let known = asked()?;
    let user = format!("system:serviceaccount:{}:robot", path.rsplit('/').next().unwrap_or_default());
    let status = &known.tree()["status"];
    expect(
        status["authenticated"] == true && status["user"]["username"] == user && status["user"]["uid"] == uid,
        &known,
    )?;
    let used = |seen: &Seen| !at(seen, "token")["metadata"]["labels"]["kubernetes.io/legacy-token-last-used"].is_null();
    run.see("the day of its use", SECRETS.gvr(), &path, used)?;
    run.delete(&format!("{path}/serviceaccounts/robot"))?;
    run.see("no token without its account", SECRETS.gvr(), &path, |seen| !seen.contains_key("token"))?;
    run.until(asked, |answer| answer.tree()["status"]["authenticated"] != true).map(drop)
}

pub(crate) fn signed_info(run: &mut Run) -> Result<(), String> {
    let (maps, secrets) = ("/api/v1/namespaces/kube-public/configmaps", "/api/v1/namespaces/kube-system/secrets");
    let info = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info"},
        "data": {"kubeconfig": "apiVersion: v1"}});
    let made = run.post(maps, &info)?;
    expect(made.code == 201 || made.code == 409, &made)?;
    let id = format!("{:06x}", std::process::id() % 0x100_0000);
    let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": {"token-id": id,
            "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}});
    accepted(&run.post(secrets, &token)?)?;
    let key = format!("jws-kubeconfig-{id}");
    let signature = |seen: &Seen| at(seen, "cluster-info")["data"][&key].as_str().unwrap_or_default().to_owned();
    let signed = run.see("a signature", MAPS.gvr(), "kube-public", |seen| !signature(seen).is_empty());
    run.delete(&format!("{secrets}/bootstrap-token-{id}"))?;
    let parts = signature(&signed?);
    let detached = parts.split('.').collect::<Vec<_>>();
    if detached.len() != 3 || !detached[1].is_empty() || detached[2].len() != 43 {
        return Err(parts);
    }
    run.see("no signature", MAPS.gvr(), "kube-public", |seen| signature(seen).is_empty()).map(drop)
}
