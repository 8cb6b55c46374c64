//! Acting as somebody else: the `Impersonate-*` headers, each name checked against what the caller may impersonate.

use std::sync::Arc;

use http::HeaderMap;
use skiff_meta::Status;

use crate::auth::authz::forbidden;
use crate::auth::names::{AUTHENTICATED, account_groups, account_of};
use crate::chain::{Attributes, Authorizer, Decision, User};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that `caller` wants to be for this request; `caller` itself where the headers say nothing.
///
/// # Errors
/// 403 for anything that `caller` may not impersonate, 400 where no user is named.
pub async fn impersonate(
    headers: &HeaderMap,
    caller: Arc<User>,
    authorizer: &dyn Authorizer,
) -> Result<Arc<User>, Status> {
    let Some(wanted) = Wanted::read(headers)? else { return Ok(caller) };
    wanted.check(&caller, authorizer).await?;
    Ok(Arc::new(wanted.into_user()))
}

#[derive(Default)]
struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Option<Self>, Status> {
        let mut wanted = Self::default();
        for (name, value) in headers {
            if !name.as_str().starts_with("impersonate-") {
                continue;
            }
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match name.as_str() {
                USER if wanted.user.is_empty() => wanted.user = text,
                UID if wanted.uid.is_empty() => wanted.uid = text,
                GROUP => wanted.groups.push(text),
                other => {
                    let Some(key) = other.strip_prefix(EXTRA) else { continue };
                    let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                    wanted.extra.entry(key).or_default().push(text);
                }
            }
        }
        let others = !wanted.groups.is_empty() || !wanted.uid.is_empty() || !wanted.extra.is_empty();
        match (wanted.user.is_empty(), others) {
            (true, false) => Ok(None),
            (true, true) => Err(Status::bad_request("requested impersonation without impersonating a user name")),
            (false, _) => Ok(Some(wanted)),
        }
    }

    async fn check(&self, caller: &User, authorizer: &dyn Authorizer) -> Result<(), Status> {
        let ask = Ask { caller, authorizer };
        match account_of(&self.user) {
            Some((namespace, name)) => ask.may("", "serviceaccounts", "", namespace, name).await?,
            None => ask.may("", "users", "", "", &self.user).await?,
        }
        for group in &self.groups {
            ask.may("", "groups", "", "", group).await?;
        }
        for (key, values) in &self.extra {
            for value in values {
                ask.may("authentication.k8s.io", "userextras", key, "", value).await?;
            }
        }
        if !self.uid.is_empty() {
            ask.may("authentication.k8s.io", "uids", "", "", &self.uid).await?;
        }
        Ok(())
    }

    fn into_user(mut self) -> User {
        if let Some((namespace, _)) = account_of(&self.user)
            && self.groups.is_empty()
        {
            self.groups = account_groups(namespace);
        }
        let own = if self.user == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
        if !self.groups.iter().any(|group| group == own || group == UNAUTHENTICATED) {
            self.groups.push(own.to_owned());
        }
        User { name: self.user, uid: self.uid, groups: self.groups, extra: self.extra }
    }
}

struct Ask<'a> {
    caller: &'a User,
    authorizer: &'a dyn Authorizer,
}

impl Ask<'_> {
    async fn may(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        let version = if group.is_empty() { "" } else { "v1" };
        let (user, verb, fields, labels, path) = (self.caller, "impersonate", "", "", "");
        let attributes =
            Attributes { user, verb, group, version, resource, subresource, namespace, name, fields, labels, path };
        match self.authorizer.authorize(&attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(&attributes, &why)),
        }
    }
}
