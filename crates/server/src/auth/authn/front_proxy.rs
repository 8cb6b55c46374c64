//! Users that a front proxy tells: it shows its own certificate, and says in headers for whom it asks.
//!
//! The headers count only beside a certificate of the front proxies' own authority, for the one name that is allowed;
//! from anybody else they mean nothing. The header names are those that every cluster is set up with.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use super::{Certificates, with_authenticated};
use crate::chain::{Peer, User};
use crate::pki::FRONT_PROXY;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Knows front proxies.
pub(crate) struct FrontProxy(Certificates);

impl FrontProxy {
    /// `certificates` are those of the front proxies' authority.
    pub(crate) fn new(certificates: Certificates) -> Self {
        Self(certificates)
    }

    /// For whom a front proxy asks; `None` when it is none, or does not say.
    pub(super) fn user(&self, headers: &HeaderMap, peer: &Peer, now: Timestamp) -> Option<Arc<User>> {
        let text = |name: &str| {
            let first = headers.get_all(name).iter().find(|value| !value.is_empty())?;
            Some(String::from_utf8_lossy(first.as_bytes()).into_owned())
        };
        let name = text(USER)?;
        let proxy = self.0.check(&peer.certificates, now).ok().flatten()?;
        if proxy.name != FRONT_PROXY {
            return None;
        }
        let groups = headers.get_all(GROUP).iter().filter(|value| !value.is_empty());
        let groups = groups.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            extra.entry(key).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
        let user = User { name, uid: text(UID).unwrap_or_default(), groups, extra };
        let anonymous = user.name == "system:anonymous" || user.is_in("system:unauthenticated");
        Some(Arc::new(if anonymous { user } else { with_authenticated(user) }))
    }
}
