//! `serviceaccounts/token`.

use skiff_meta::{GroupVersionKind, Status};

use crate::call::{Answer, Call, Payload};
use crate::chain::Operation;
use crate::request::WriteOptions;
use crate::verbs::create::options_tree;
use crate::write::admit::Admitted;

/// Issues a token.
pub(crate) async fn issue(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    let request = super::body(call, &payload, &gvk, &options)?;
    let name = call.target.name.clone();
    let account = call.current(&name).await?.ok_or_else(|| call.not_found(&name))?;
    let tree = options_tree("CreateOptions", &options);
    let (operation, dry_run) = (Operation::Create, options.dry_run);
    let admitted = Admitted { operation, kind: &gvk, name: &name, old: None, dry_run, options: &tree };
    admitted.validate(call, Some(&request)).await?;
    let answer = call.api.chain.tokens.issue(&account, request, &*call.api.view).await?;
    Ok(Answer::Tree(201, answer))
}
