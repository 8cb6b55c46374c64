//! Dynamic resources: what a pod's claims were given is made ready by the drivers on the node before the pod's containers
//! start, and given back when the last pod that uses a claim here has ended.
//!
//! Which claims were made ready, by whom and for whom, lies in a file: it is written before a driver is asked for anything,
//! so that a restarted agent gives back what its predecessor took.

mod plan;
mod record;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use parking_lot::Mutex;
use skiff_api::claims;
use skiff_client::ClientError;
use skiff_meta::world::AbortOnDrop;
use skiff_plugins::dra::dra_plugin_client::DraPluginClient;
use skiff_plugins::dra::{Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use skiff_plugins::{Channel, Status, connect, limited};

use crate::node::Node;
use crate::os::Files;
use crate::pod::facts;
use record::{Device, Prepared, Record};

/// Why a pod's claims are not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("ResourceClaim {0} is not there yet")]
    NotYet(String),
    #[error("ResourceClaim {claim} {why}")]
    Unfit { claim: String, why: &'static str },
    #[error("DRA driver {0} is not registered")]
    NoDriver(String),
    #[error("DRA driver {driver}: {why}")]
    Refused { driver: String, why: String },
    #[error("ResourceClaim {0}: {1}")]
    Api(String, ClientError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

fn refused(driver: &str) -> impl Fn(Status) -> ClaimError {
    move |status| {
        let why = format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
        ClaimError::Refused { driver: driver.to_owned(), why }
    }
}

struct Driver {
    client: DraPluginClient<Channel>,
    /// The socket that it registered with, which it takes along when it goes.
    registered_by: PathBuf,
}

/// All drivers, and what they have made ready.
pub(crate) struct Claims {
    drivers: Mutex<BTreeMap<String, Driver>>,
    record: Mutex<Record>,
    directory: PathBuf,
    /// What drivers that have gone had on offer goes after a while, unless they come back.
    wipes: Mutex<BTreeMap<String, AbortOnDrop>>,
    /// One pod's claims at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Claims {
    /// What the last agent had made ready.
    pub(crate) fn found(files: &dyn Files, directory: &Path) -> Self {
        Self {
            drivers: Mutex::default(),
            record: Mutex::new(Record::load(files, directory)),
            directory: directory.to_owned(),
            wipes: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// A driver serves on `endpoint`. Must be called inside a Tokio runtime.
    pub(crate) fn add(&self, name: &str, endpoint: &Path, registered_by: &Path) {
        let client = DraPluginClient::new(connect(endpoint));
        self.wipes.lock().remove(name);
        self.drivers.lock().insert(name.to_owned(), Driver { client, registered_by: registered_by.to_owned() });
    }

    /// The driver that registered with this socket is gone.
    pub(crate) fn lost(&self, node: &Arc<Node>, socket: &Path) {
        let mut drivers = self.drivers.lock();
        let gone: Vec<String> =
            drivers.extract_if(.., |_, driver| driver.registered_by == socket).map(|(name, _)| name).collect();
        for name in gone {
            let task = slices::wipe_later(node.clone(), name.clone());
            self.wipes.lock().insert(name, AbortOnDrop(node.world.spawn("slices", Box::pin(task))));
        }
    }

    /// An agent that begins knows no driver yet, and a pod that got devices of one would wait for it: those that are there
    /// offer theirs again. Before any is taken in, if the API answers.
    pub(crate) async fn begin(&self, node: &Arc<Node>) {
        if slices::delete(node, None).await.is_err() {
            let task = slices::wipe(node.clone(), None);
            self.wipes.lock().insert(String::new(), AbortOnDrop(node.world.spawn("slices", Box::pin(task))));
        }
    }

    fn driver(&self, name: &str) -> Result<DraPluginClient<Channel>, ClaimError> {
        let drivers = self.drivers.lock();
        let found = drivers.get(name).map(|driver| driver.client.clone());
        found.ok_or_else(|| ClaimError::NoDriver(name.to_owned()))
    }

    /// The names in the Container Device Interface of what a container of the pod asks for.
    pub(crate) fn of_container(&self, pod: &Pod, container: &Container) -> Vec<String> {
        let record = self.record.lock();
        let wanted = container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
        let names = wanted.flat_map(|wanted| {
            let claim = plan::named(pod, &wanted.name);
            let prepared = claim.and_then(|claim| record.find(facts::namespace(pod), claim, facts::uid(pod)));
            prepared.map(|prepared| prepared.names(wanted.request.as_deref())).unwrap_or_default()
        });
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Has drivers make a pod's claims ready.
    ///
    /// # Errors
    /// When a claim is not the pod's to use, or a driver is not there or refuses; trying again is fine.
    pub(crate) async fn prepare(&self, node: &Node, pod: &Pod) -> Result<(), ClaimError> {
        let Some(wanted) = facts::spec(pod).resource_claims.as_ref().filter(|claims| !claims.is_empty()) else {
            return Ok(());
        };
        let _turn = self.turn.lock().await;
        let api = node.client.namespaced::<ResourceClaim>(facts::namespace(pod));
        let mut by_driver: BTreeMap<String, Vec<Claim>> = BTreeMap::new();
        for wanted in wanted {
            // One that its template wants nothing for has no name.
            let made = claims::name(pod, wanted).ok_or_else(|| ClaimError::NotYet(wanted.name.clone()))?;
            let Some(name) = made.map(str::to_owned) else { continue };
            let claim = api.get(&name).await.map_err(|error| ClaimError::Api(name.clone(), error))?;
            let fit = plan::usable(pod, wanted, &claim);
            let drivers = fit.map_err(|why| ClaimError::Unfit { claim: name.clone(), why })?;
            let uid = claim.metadata.uid.clone().unwrap_or_default();
            let missing = self.record.lock().uses(facts::namespace(pod), &name, &uid, &drivers, facts::uid(pod));
            for driver in missing {
                let told = Claim { namespace: facts::namespace(pod).to_owned(), uid: uid.clone(), name: name.clone() };
                by_driver.entry(driver).or_default().push(told);
            }
        }
        self.save(node)?;
        for (name, claims) in by_driver {
            let mut client = self.driver(&name)?;
            let request = limited(NodePrepareResourcesRequest { claims: claims.clone() });
            let mut answers = client.node_prepare_resources(request).await.map_err(refused(&name))?.into_inner().claims;
            for claim in claims {
                let why = |why: String| ClaimError::Refused { driver: name.clone(), why };
                let answer = answers.remove(&claim.uid);
                let answer = answer.ok_or_else(|| why(format!("says nothing of ResourceClaim {}", claim.name)))?;
                if !answer.error.is_empty() {
                    return Err(why(answer.error));
                }
                let devices = answer.devices.into_iter();
                let devices = devices.map(|d| Device { requests: d.request_names, names: d.cdi_device_ids }).collect();
                self.record.lock().prepared(&claim.uid, &name, devices);
            }
        }
        Ok(self.save(node)?)
    }

    /// Nothing of the pod runs any more: claims that no other pod here uses are given back. Fine to be repeated.
    ///
    /// # Errors
    /// When a driver is not there or refuses; nothing of its claims is forgotten then.
    pub(crate) async fn release(&self, node: &Node, uid: &str) -> Result<(), ClaimError> {
        if !self.record.lock().uses_any(uid) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        // Whatever comes of it, they have to be made ready for the next pod.
        let left: Vec<(String, Prepared)> = self.record.lock().leave(uid);
        self.save(node)?;
        for (claim, prepared) in left {
            for name in prepared.drivers.keys() {
                let told =
                    Claim { namespace: prepared.namespace.clone(), uid: claim.clone(), name: prepared.name.clone() };
                let mut client = self.driver(name)?;
                let request = limited(NodeUnprepareResourcesRequest { claims: vec![told] });
                let mut answers =
                    client.node_unprepare_resources(request).await.map_err(refused(name))?.into_inner().claims;
                let error = answers.remove(&claim).map(|answer| answer.error).unwrap_or_default();
                if !error.is_empty() {
                    return Err(ClaimError::Refused { driver: name.clone(), why: error });
                }
            }
            self.record.lock().remove(&claim);
        }
        self.record.lock().forget(uid);
        Ok(self.save(node)?)
    }

    /// The UIDs of all pods that use claims.
    pub(crate) fn users(&self) -> Vec<String> {
        self.record.lock().users()
    }

    fn save(&self, node: &Node) -> std::io::Result<()> {
        self.record.lock().save(&*node.config.os.files, &self.directory)
    }
}
