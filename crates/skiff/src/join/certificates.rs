//! A node's certificates: asked for, kept in files, and renewed under whoever shows them.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::config::Remote;
use skiff_client::http::HttpBackend;
use skiff_client::{Client, Event, Renewable, Selection};
use skiff_server::pki::{KeyedRequest, Pair, PkiError, ServingNames};

use super::Joining;
use crate::error::StartError;

/// Pauses between looks at the certificates; the longer one is for clocks that jump.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// By how many seconds signers set the begin back, for clocks that are behind.
const BACKDATE: i64 = 300;

/// One of the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    /// By which the node is known to the API server, and may ask for the others.
    Node,
    /// With what the node serves.
    Serving,
    /// By which a part of the node is known: the name of its file, and its user.
    Part(&'static str, &'static str),
}

const PARTS: [Leaf; 3] = [
    Leaf::Part("proxy", "system:kube-proxy"),
    Leaf::Part("network-policy", "system:serviceaccount:kube-system:network-policy"),
    Leaf::Part("dns", "system:serviceaccount:kube-system:kube-dns"),
];

impl Leaf {
    fn file(self) -> &'static str {
        match self {
            Self::Node => "kubelet",
            Self::Serving => "kubelet-serving",
            Self::Part(file, _) => file,
        }
    }

    /// Who signs it, and for what.
    fn signer(self) -> (&'static str, &'static str) {
        match self {
            Self::Node => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
            Self::Serving => ("kubernetes.io/kubelet-serving", "server auth"),
            Self::Part(..) => ("kubernetes.io/kube-apiserver-client", "client auth"),
        }
    }
}

/// Who shows a certificate.
enum Shown {
    Client(HttpBackend),
    Server(Arc<Renewable>),
}

/// A node's certificates, that of the node itself first.
pub(crate) struct Certificates {
    authority: String,
    held: Vec<(Leaf, Pair, Shown)>,
}

impl Joining<'_> {
    /// All certificates, what serves with them, and the clients of node, proxy, policies and DNS.
    pub(super) async fn certificates(
        &self,
        authority: &str,
    ) -> Result<(Certificates, Arc<Renewable>, [Client; 4]), StartError> {
        let own = self.load_or_obtain(Leaf::Node, authority, None).await?;
        let serving = self.load_or_obtain(Leaf::Serving, authority, Some(&own)).await?;
        let shown = Renewable::new(serving.certificate.as_bytes(), serving.key.as_bytes()).map_err(PkiError::from)?;
        let mut held = vec![(Leaf::Serving, serving, Shown::Server(shown.clone()))];
        let mut clients = Vec::new();
        for leaf in PARTS {
            let pair = self.load_or_obtain(leaf, authority, Some(&own)).await?;
            held.push(self.known(leaf, pair, authority, &mut clients)?);
        }
        held.insert(0, self.known(Leaf::Node, own, authority, &mut clients)?);
        clients.rotate_right(1);
        let clients = clients.try_into().map_err(|_| StartError::NotSkiff)?;
        Ok((Certificates { authority: authority.to_owned(), held }, shown, clients))
    }

    /// A client that is known by a certificate.
    fn known(
        &self,
        leaf: Leaf,
        pair: Pair,
        authority: &str,
        clients: &mut Vec<Client>,
    ) -> Result<(Leaf, Pair, Shown), StartError> {
        let backend = self.backend(self.remote_as(authority, &pair), leaf.file())?;
        clients.push(Client::new(Arc::new(backend.clone())));
        Ok((leaf, pair, Shown::Client(backend)))
    }

    /// Renews each certificate when a third of its time is left.
    pub(crate) async fn renew(&self, mut certificates: Certificates) -> Infallible {
        let Certificates { authority, held } = &mut certificates;
        loop {
            let pauses = held.iter().map(|(_, pair, _)| self.pause(pair));
            self.world.sleep(pauses.min().unwrap_or(PAUSE.1)).await;
            for at in 0..held.len() {
                let own = held.first().map(|(_, pair, _)| pair.clone());
                let Some((leaf, pair, shown)) = held.get_mut(at) else { continue };
                if !self.ends_soon(pair) {
                    continue;
                }
                match self.obtain(*leaf, authority, own.as_ref()).await.and_then(|new| shown.take(new)) {
                    Ok(new) => *pair = new,
                    Err(error) => {
                        tracing::warn!(certificate = leaf.file(), "a certificate is not renewed yet: {error}")
                    }
                }
            }
        }
    }

    /// A certificate from its file, or a new one where that does not fit; `own` is the node's.
    async fn load_or_obtain(&self, leaf: Leaf, authority: &str, own: Option<&Pair>) -> Result<Pair, StartError> {
        let kept = Pair::load(&self.file(leaf));
        let fits = |pair: &Pair| !self.ends_soon(pair) && (leaf != Leaf::Serving || pair.serves(&self.names()));
        match kept {
            Some(pair) if fits(&pair) => Ok(pair),
            kept => self.obtain(leaf, authority, own.or(kept.as_ref().filter(|_| leaf == Leaf::Node))).await,
        }
    }

    /// Asks for a certificate with the node's own, waits until it is signed, and keeps it.
    async fn obtain(&self, leaf: Leaf, authority: &str, own: Option<&Pair>) -> Result<Pair, StartError> {
        // A certificate that has ended is worth nothing; then the token must speak for us again.
        let asker = match own.filter(|own| self.left(own) > 0) {
            Some(own) => self.remote_as(authority, own),
            None => self.remote_with_token(authority)?,
        };
        let request = match leaf {
            Leaf::Node => KeyedRequest::client(&format!("system:node:{}", self.node), "system:nodes")?,
            Leaf::Serving => KeyedRequest::serving(self.node, &self.names())?,
            Leaf::Part(_, user) => KeyedRequest::client(user, "")?,
        };
        let certificate = self.signed(asker, leaf, &request).await?;
        let pair = request.answered(&certificate)?;
        pair.save(&self.file(leaf))?;
        Ok(pair)
    }

    /// The certificate that a signer makes of a request.
    async fn signed(&self, asker: Remote, leaf: Leaf, request: &KeyedRequest) -> Result<String, StartError> {
        let client = self.client(asker, "join")?;
        let api = client.all::<CertificateSigningRequest>();
        let (signer, usage) = leaf.signer();
        let object = CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("node-csr-".to_owned()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.request.clone().into_bytes()),
                signer_name: signer.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let created = self.patiently(|| api.create(&object)).await?;
        let name = created.metadata.name.unwrap_or_default();
        let fields = format!("metadata.name={name}");
        let mut events = client.list_watch(api.target(Selection { fields, ..Selection::default() }));
        while let Some(event) = events.next().await {
            let objects = match event {
                Event::Replace(objects) => objects,
                Event::Apply(object) => vec![object],
                Event::Delete(_) => return Err(StartError::Refused(name, "it was deleted".to_owned())),
            };
            for object in objects {
                let Ok(seen) = object.typed::<CertificateSigningRequest>() else { continue };
                let Some(status) = &seen.status else { continue };
                let no = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
                if let Some(no) = no {
                    let why = no.message.clone().unwrap_or_else(|| no.type_.clone());
                    return Err(StartError::Refused(name, why));
                }
                if let Some(certificate) = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()) {
                    return Ok(String::from_utf8_lossy(&certificate.0).into_owned());
                }
                tracing::info!(request = name, "waiting for the certificate");
            }
        }
        Err(StartError::Refused(name, "the server went away".to_owned()))
    }

    fn names(&self) -> ServingNames {
        ServingNames::of(self.addresses.iter().map(IpAddr::to_string).chain([self.node.to_owned()]))
    }

    fn file(&self, leaf: Leaf) -> PathBuf {
        self.data.join("pki").join(Path::new(leaf.file()).with_extension("pem"))
    }

    /// How many seconds a certificate is still good for.
    fn left(&self, pair: &Pair) -> i64 {
        pair.validity().map_or(0, |(_, to)| to - self.world.now().as_second())
    }

    fn ends_soon(&self, pair: &Pair) -> bool {
        self.left(pair) < third(pair)
    }

    /// When to look at a certificate again: when it ends soon, and after that more and more often.
    fn pause(&self, pair: &Pair) -> Duration {
        let (left, third) = (self.left(pair), third(pair));
        let seconds = if left > third { left - third + 1 } else { left / 20 };
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).clamp(PAUSE.0, PAUSE.1)
    }
}

/// A third of the time that a certificate was made for, in seconds.
fn third(pair: &Pair) -> i64 {
    pair.validity().map_or(i64::MAX, |(from, to)| (to - from - BACKDATE).max(0) / 3)
}

impl Shown {
    /// Shows another pair from now on.
    fn take(&self, pair: Pair) -> Result<Pair, StartError> {
        let (certificate, key) = (pair.certificate.as_bytes(), pair.key.as_bytes());
        match self {
            Self::Client(backend) => backend.renew(certificate.to_vec(), key.to_vec())?,
            Self::Server(shown) => shown.renew(certificate, key).map_err(PkiError::from)?,
        }
        Ok(pair)
    }
}
