//! `serviceaccounts/token`.

use serde_json::Value;
use skiff_meta::{GroupVersionKind, Status, apply};

use crate::call::{Answer, Call, Payload};
use crate::chain::Operation;
use crate::metadata::system;
use crate::request::WriteOptions;
use crate::tree;
use crate::verbs::create::options_tree;
use crate::write::admit::Admitted;
use crate::write::fields;

/// How long a token lives whose request does not say.
const LIFE: i64 = 3_600;

/// Issues a token.
pub(crate) async fn issue(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let mut request = super::body(call, &payload, &gvk, &options)?;
    system::match_namespace(&mut request, call.namespace(), true)?;
    let name = call.target.name.clone();
    let account = call.current(&name).await?.ok_or_else(|| call.not_found(&name))?;
    let spec = tree::child(&mut request, "spec");
    if spec.get("expirationSeconds").is_none_or(Value::is_null) {
        spec.insert("expirationSeconds".to_owned(), Value::from(LIFE));
    }
    if let Some(schema) = skiff_api::facts::schema(&gvk) {
        let (manager, reset, version) = (call.manager(&options.manager), apply::FieldSet::default(), gvk.api_version());
        let writer = apply::Writer { api_version: &version, ..fields::writer(call, &manager, &reset) };
        apply::update(None, &mut request, schema.root(), &writer);
    }
    let tree = options_tree("CreateOptions", &options);
    let (operation, dry_run) = (Operation::Create, options.dry_run);
    let admitted = Admitted { operation, kind: &gvk, name: &name, old: None, dry_run, options: &tree };
    admitted.validate(call, Some(&request)).await?;
    let answer = call.api.chain.tokens.issue(&account, request, &*call.api.view).await?;
    Ok(Answer::Tree(201, answer))
}
