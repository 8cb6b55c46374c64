//! Names of users and groups that mean something to the API server itself.

/// May do everything, whatever the roles say.
pub(crate) const MASTERS: &str = "system:masters";
/// Everybody who showed good credentials.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Node agents.
pub(crate) const NODES: &str = "system:nodes";

const ACCOUNT: &str = "system:serviceaccount:";
const NODE: &str = "system:node:";

/// The user name of a service account.
pub(crate) fn account_user(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT}{namespace}:{name}")
}

/// Namespace and name of the service account that a user name belongs to.
pub(crate) fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(ACCOUNT)?.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
}

/// The groups of a service account.
pub(crate) fn account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.to_owned()]
}

/// The node that a user is the agent of.
pub(crate) fn node_of(user: &crate::chain::User) -> Option<&str> {
    user.name.strip_prefix(NODE).filter(|node| !node.is_empty() && user.is_in(NODES))
}
