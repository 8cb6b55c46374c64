//! Keys that somebody else keeps: KMS v2, a plug-in on a Unix socket.
//!
//! The plug-in encrypts a seed, not the values: each value gets a key of its own derived from the seed, and carries the
//! encrypted seed along. So the plug-in is asked once per seed, not once per value.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::EncryptionError;
use super::cipher::{open, open_derived, seal_derived};
use super::config::Kind;

/// How long a seed is used before the plug-in is asked whether its key is still the same.
const FRESH: Duration = Duration::from_secs(60);
/// Seeds that are remembered.
const REMEMBERED: usize = 1_000;
const DERIVED: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

/// What is stored.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    seed: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: std::collections::BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    seed_type: i32,
}

/// The seed that values are written with, and the envelope they get.
#[derive(Clone)]
struct Current {
    seed: [u8; 32],
    envelope: EncryptedObject,
    checked: Duration,
}

/// One plug-in.
pub(super) struct Kms {
    name: String,
    timeout: Duration,
    channel: Channel,
    world: WorldRef,
    current: tokio::sync::Mutex<Option<Current>>,
    seeds: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Kms {
    /// Nothing is dialled yet.
    pub(super) fn new(name: String, socket: &Path, timeout: Duration, world: WorldRef) -> Self {
        let socket: PathBuf = socket.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://kms").connect_with_connector_lazy(connect);
        let (current, seeds) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { name, timeout, channel, world, current, seeds }
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, EncryptionError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let failed = |why: String| EncryptionError::Kms { name: self.name.clone(), why };
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let asked = async {
            client.ready().await.map_err(|e| failed(chain(&e)))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = PathAndQuery::from_static(method);
            let answer = client.unary(tonic::Request::new(request), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|e| failed(e.message().to_owned()))
        };
        self.world.timeout(self.timeout, asked).await.unwrap_or_else(|| Err(failed("it does not answer".to_owned())))
    }

    /// Encrypts a value under the seed of the moment.
    pub(super) async fn seal(
        &self,
        plain: &[u8],
        context: &[u8],
        random: &(dyn Fn(&mut [u8]) + Send + Sync),
    ) -> Result<Vec<u8>, EncryptionError> {
        let Current { seed, mut envelope, .. } = self.current(random).await?;
        envelope.data = seal_derived(&seed, plain, context, random).map_err(|_| EncryptionError::Cipher)?;
        Ok(envelope.encode_to_vec())
    }

    async fn current(&self, random: &(dyn Fn(&mut [u8]) + Send + Sync)) -> Result<Current, EncryptionError> {
        let mut current = self.current.lock().await;
        let now = self.world.elapsed();
        if let Some(known) = &mut *current {
            if now < known.checked + FRESH {
                return Ok(known.clone());
            }
            match self.call::<_, StatusResponse>("/v2.KeyManagementService/Status", StatusRequest {}).await {
                Ok(status) if status.key_id != known.envelope.key_id => {}
                checked => {
                    // A plug-in that is away for a moment keeps nobody from writing.
                    if let Err(error) = checked {
                        tracing::warn!("{error}");
                    }
                    known.checked = now;
                    return Ok(known.clone());
                }
            }
        }
        let mut seed = [0; 32];
        random(&mut seed);
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: self.world.uuid() };
        let answer: EncryptResponse = self.call("/v2.KeyManagementService/Encrypt", request).await?;
        let envelope = EncryptedObject {
            data: Vec::new(),
            key_id: answer.key_id,
            seed: answer.ciphertext,
            annotations: answer.annotations,
            seed_type: DERIVED,
        };
        self.remember(&envelope.seed, &seed);
        let made = Current { seed, envelope, checked: now };
        *current = Some(made.clone());
        Ok(made)
    }

    fn remember(&self, sealed: &[u8], seed: &[u8]) {
        let mut seeds = self.seeds.lock();
        if seeds.len() >= REMEMBERED {
            seeds.clear();
        }
        seeds.insert(sealed.to_vec(), seed.to_vec());
    }

    /// Decrypts a value.
    pub(super) async fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let object = EncryptedObject::decode(sealed).map_err(|_| EncryptionError::Cipher)?;
        let known = self.seeds.lock().get(&object.seed).cloned();
        let seed = match known {
            Some(seed) => seed,
            None => {
                let request = DecryptRequest {
                    ciphertext: object.seed.clone(),
                    uid: self.world.uuid(),
                    key_id: object.key_id,
                    annotations: object.annotations,
                };
                let answer: DecryptResponse = self.call("/v2.KeyManagementService/Decrypt", request).await?;
                self.remember(&object.seed, &answer.plaintext);
                answer.plaintext
            }
        };
        let plain = match object.seed_type {
            DERIVED => open_derived(&seed, &object.data, context),
            _ => open(Kind::AesGcm, &seed, &object.data, context),
        };
        plain.map_err(|_| EncryptionError::Cipher)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Incoming;
    use hyper_util::rt::TokioExecutor;
    use skiff_meta::world::RealWorld;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// A plug-in that turns bytes upside down, and counts how often it is asked to.
    async fn plugin(listener: tokio::net::UnixListener, asked: Arc<AtomicUsize>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes().slice(5..);
                    asked.fetch_add(1, SeqCst);
                    let turned = |bytes: Vec<u8>| bytes.into_iter().map(|b| !b).collect::<Vec<u8>>();
                    let answer = if method == "Encrypt" {
                        let ciphertext = turned(EncryptRequest::decode(body).unwrap().plaintext);
                        EncryptResponse { ciphertext, key_id: "k1".into(), ..Default::default() }.encode_to_vec()
                    } else {
                        let asked = DecryptRequest::decode(body).unwrap();
                        assert_eq!(asked.key_id, "k1");
                        DecryptResponse { plaintext: turned(asked.ciphertext) }.encode_to_vec()
                    };
                    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
                    let data = Bytes::from([&[0][..], &length, &answer].concat());
                    let mut end = http::HeaderMap::new();
                    end.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let frames = [http_body::Frame::data(data), http_body::Frame::trailers(end)];
                    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
                    let answer = http::Response::builder().header("content-type", "application/grpc").body(body);
                    Ok::<_, std::convert::Infallible>(answer.unwrap())
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // It lasts as long as its client.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    }

    #[tokio::test]
    async fn the_plug_in_is_asked_once_per_seed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("kms.sock");
        let asked = Arc::new(AtomicUsize::new(0));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let world = RealWorld::shared();
        let kms = || Kms::new("a".into(), &socket, Duration::from_secs(10), world.clone());
        let test = async {
            let random = |bytes: &mut [u8]| bytes.fill(7);
            let writer = kms();
            let sealed = writer.seal(b"hello", b"place", &random).await.unwrap();
            assert_eq!(writer.open(&sealed, b"place").await.unwrap(), b"hello");
            writer.seal(b"other", b"place", &random).await.unwrap();
            assert_eq!(asked.load(SeqCst), 1, "the seed is known");
            drop(writer);
            let reader = kms();
            for _ in 0..3 {
                assert_eq!(reader.open(&sealed, b"place").await.unwrap(), b"hello");
            }
            assert_eq!(asked.load(SeqCst), 2, "another server asks once");
            assert!(reader.open(&sealed, b"other").await.is_err());
        };
        futures::pin_mut!(test);
        let serving = plugin(listener, asked.clone());
        futures::pin_mut!(serving);
        futures::future::select(test, serving).await;
    }

    #[tokio::test]
    async fn a_plug_in_that_is_not_there_is_named() {
        let kms = Kms::new("a".into(), Path::new("/nowhere.sock"), Duration::from_secs(5), RealWorld::shared());
        let error = kms.seal(b"x", b"", &|bytes: &mut [u8]| bytes.fill(1)).await.unwrap_err().to_string();
        assert!(error.starts_with("KMS plug-in \"a\": "), "{error}");
    }
}
