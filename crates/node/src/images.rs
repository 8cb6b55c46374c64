//! Images: is it here, may it be fetched, and how long to wait after a fetch that failed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use skiff_client::Involved;
use skiff_cri::v1::{AuthConfig, Image};
use skiff_cri::{Runtime, RuntimeError};

use crate::make::Referenced;
use crate::make::security::ImageUser;
use crate::node::Node;
use crate::pod::backoff::BackOff;
use crate::pod::status::Trouble;

/// How long a failed pull is told as such.
const SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// What is known of images beyond the runtime's own knowledge.
#[derive(Default)]
pub(crate) struct Images {
    failures: Mutex<Failures>,
    /// Counts changes.
    generation: AtomicU64,
    /// The names of images that stay, used or not.
    kept: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Failures {
    backoff: BackOff,
    last: std::collections::HashMap<String, Timestamp>,
}

/// An image that is here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// What the runtime wants to hear.
    pub(crate) reference: String,
    pub(crate) user: ImageUser,
}

/// An image that is not here, and when to try again.
pub(crate) struct Missing {
    pub(crate) trouble: Trouble,
    pub(crate) retry_at: Option<Timestamp>,
}

impl Images {
    /// Images have come: what could not be fetched may be here now.
    pub(crate) fn arrived(&self) {
        *self.failures.lock() = Failures::default();
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
    /// Images have come or gone.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
    /// These images came from archives: no registry could bring them back, so they stay.
    pub(crate) fn keep<'a>(&self, names: impl Iterator<Item = &'a String>) {
        self.kept.lock().extend(names.cloned());
    }
    /// The names of the images that stay.
    pub(crate) fn kept(&self) -> BTreeSet<String> {
        let mut kept = self.kept.lock().clone();
        kept.insert(skiff_cri::containerd::PAUSE_IMAGE.to_owned());
        kept
    }
    /// Changes whenever an image comes or goes.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// Makes sure that an image is here, as its pull policy wants it; `about` is the container that wants it.
pub(crate) async fn ensure(
    node: &Node,
    about: &Involved,
    image: &str,
    policy: Option<&str>,
    referenced: &Referenced,
) -> Result<Found, Missing> {
    let policy = policy.unwrap_or("IfNotPresent");
    let here = match node.runtime.image_status(image).await {
        Ok(here) => here,
        Err(error) => return Err(trouble("ImageInspectError", format!("Failed to inspect image {image:?}: {error}"))),
    };
    match (policy, here) {
        ("Always", _) => {}
        (_, Some(here)) => {
            let message = format!("Container image {image:?} already present on machine");
            node.recorder.normal(about, "Pulled", message);
            return Ok(found(here));
        }
        ("Never", None) => {
            let message = format!("Container image {image:?} is not present with pull policy of Never");
            node.recorder.warning(about, "ErrImageNeverPull", message.clone());
            return Err(trouble("ErrImageNeverPull", message));
        }
        _ => {}
    }
    let now = node.world.now();
    if let Some(until) = node.images.paused(image, now) {
        let message = format!("Back-off pulling image {image:?}");
        node.recorder.normal(about, "BackOff", message.clone());
        return Err(Missing { retry_at: Some(until), ..trouble("ImagePullBackOff", message) });
    }
    node.recorder.normal(about, "Pulling", format!("Pulling image {image:?}"));
    let begun = node.world.elapsed();
    match pull(&*node.runtime, image, referenced).await {
        Ok(here) => {
            node.images.failures.lock().backoff.succeeded(image);
            node.images.generation.fetch_add(1, Ordering::Relaxed);
            let took = node.world.elapsed() - begun;
            let message = format!(
                "Successfully pulled image {image:?} in {:.3}s ({:.3}s including waiting). Image size: {} bytes.",
                took.as_secs_f64(),
                took.as_secs_f64(),
                here.size
            );
            node.recorder.normal(about, "Pulled", message);
            Ok(found(here))
        }
        Err(error) => {
            node.images.failed(image, node.world.now());
            // The failure is shown for a moment before the wait for the next attempt is.
            let until = node.world.now().checked_add(SHOWN).ok();
            node.recorder.warning(about, "Failed", format!("Failed to pull image {image:?}: {error}"));
            node.recorder.warning(about, "Failed", "Error: ErrImagePull");
            Err(Missing { retry_at: until, ..trouble("ErrImagePull", error.to_string()) })
        }
    }
}

fn trouble(reason: &'static str, message: String) -> Missing {
    Missing { trouble: Trouble { reason, message }, retry_at: None }
}

fn found(image: Image) -> Found {
    let user = ImageUser { uid: image.uid.map(|uid| uid.value), name: image.username };
    Found { reference: image.id, user }
}

impl Images {
    /// Until when not to try again.
    fn paused(&self, image: &str, now: Timestamp) -> Option<Timestamp> {
        let failures = self.failures.lock();
        let failed = *failures.last.get(image)?;
        failures.backoff.waiting(image, failed, now).map(|(_, until)| until)
    }

    fn failed(&self, image: &str, now: Timestamp) {
        let mut failures = self.failures.lock();
        failures.backoff.attempt(image, now, now);
        failures.last.insert(image.to_owned(), now);
    }
}

/// Tries the pod's credentials for the registry one after the other; without any, nobody's.
async fn pull(runtime: &dyn Runtime, image: &str, referenced: &Referenced) -> Result<Image, RuntimeError> {
    let mut attempts: Vec<Option<AuthConfig>> = credentials(image, referenced).into_iter().map(Some).collect();
    if attempts.is_empty() {
        attempts.push(None);
    }
    let mut last = Err(RuntimeError::NotFound(image.to_owned()));
    for auth in attempts {
        last = runtime.pull_image(image, auth, None).await;
        if last.is_ok() {
            break;
        }
    }
    let reference = last?;
    let here = runtime.image_status(&reference).await?;
    here.ok_or_else(|| RuntimeError::NotFound(format!("image {reference} vanished after it was pulled")))
}

/// The credentials in the pod's secrets that are for the registry of `image`.
fn credentials(image: &str, referenced: &Referenced) -> Vec<AuthConfig> {
    let secrets = referenced.secrets.values();
    let configs = secrets.filter_map(|secret| secret.data.as_ref()?.get(".dockerconfigjson"));
    let configs = configs.filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    let mut found = Vec::new();
    for config in configs {
        for (registry, entry) in config.get("auths").and_then(|auths| auths.as_object()).into_iter().flatten() {
            if is_for(registry, image) {
                found.push(auth(registry, entry));
            }
        }
    }
    found
}

fn is_for(registry: &str, image: &str) -> bool {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let host = image.split('/').next().filter(|host| image.contains('/') && host.contains(['.', ':']));
    match host.unwrap_or("docker.io") {
        "docker.io" => matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io"),
        host => registry == host || image.starts_with(&format!("{registry}/")),
    }
}

fn auth(registry: &str, entry: &serde_json::Value) -> AuthConfig {
    let text = |key: &str| entry.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).unwrap_or_default();
    let joined = String::from_utf8_lossy(&decoded).into_owned();
    let (user, password) = joined.split_once(':').unwrap_or_default();
    let or = |own: String, joined: &str| if own.is_empty() { joined.to_owned() } else { own };
    AuthConfig {
        username: or(text("username"), user),
        password: or(text("password"), password),
        server_address: registry.to_owned(),
        identity_token: text("identitytoken"),
        ..AuthConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_for_their_registry() {
        for (registry, image, expected) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "library/nginx:1", true),
            ("example.com", "nginx", false),
            ("example.com:5000", "example.com:5000/a/b", true),
            ("https://example.com", "example.com/a", true),
            ("example.com/team", "example.com/team/app", true),
            ("example.com/team", "example.com/other/app", false),
        ] {
            assert_eq!(is_for(registry, image), expected, "{registry} for {image}");
        }
        let entry = serde_json::json!({"auth": "dTpwOnc="});
        let auth = auth("r", &entry);
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p:w"));
    }
}
