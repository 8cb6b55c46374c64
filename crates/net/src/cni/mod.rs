//! The CNI plugin, specification 1.0.0 and 1.1.0: called by the container runtime, once per command.
//!
//! It reads its configuration and local files, never the API, and runs without an async runtime, so that it starts in
//! the time of a system call or two. Everything it needs to undo follows from the sandbox's id, so DEL works after a
//! kill at any point of ADD.

mod address;
mod effects;
mod install;
pub mod loopback;
mod protocol;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::{Value, json};

pub use address::{Bookings, Record};
pub use effects::{Effects, Ends, Kernel, PodLink};
pub use install::{InstallError, install, installed, uninstall};
pub use protocol::{Attachment, PluginConfig, PluginError, PortMapping, RuntimeConfig, VERSIONS};

use crate::{Family, Instance, ports};
use protocol::{AddResult, ResultAddress, ResultInterface, ResultRoute};

/// Runs the plugin as a process: commands come from the environment, configuration from `stdin`, and the answer goes to
/// `stdout`. Returns the exit code.
pub fn main(env: impl Fn(&str) -> Option<String>, stdin: impl Read, stdout: impl Write) -> i32 {
    run(env, stdin, stdout, || Ok(Box::new(Kernel::open()?)))
}

/// [`main`] on any machine; `effects` is called only by commands that need one.
pub fn run<'a>(
    env: impl Fn(&str) -> Option<String>,
    mut stdin: impl Read,
    mut stdout: impl Write,
    effects: impl FnOnce() -> Result<Box<dyn Effects + 'a>, PluginError>,
) -> i32 {
    let mut input = Vec::new();
    let read = stdin.read_to_end(&mut input).map_err(PluginError::io("read configuration from standard input"));
    let (answer, code) = match read.and_then(|_| command(&env, &input, effects)) {
        Ok(answer) => (answer, 0),
        Err(error) => (Some(error.to_json(&version_of(&input))), 1),
    };
    let written = answer.map_or(Ok(()), |answer| writeln!(stdout, "{answer}"));
    if written.is_err() { 1 } else { code }
}

/// The version to answer an error in: the one asked in, where that can be told.
fn version_of(input: &[u8]) -> String {
    let asked = serde_json::from_slice::<Value>(input).ok().and_then(|v| v["cniVersion"].as_str().map(str::to_owned));
    asked.filter(|version| VERSIONS.contains(&version.as_str())).unwrap_or_else(|| VERSIONS[0].to_owned())
}

fn command<'a>(
    env: &impl Fn(&str) -> Option<String>,
    input: &[u8],
    effects: impl FnOnce() -> Result<Box<dyn Effects + 'a>, PluginError>,
) -> Result<Option<Value>, PluginError> {
    let command = required(env, "CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": version_of(input), "supportedVersions": VERSIONS})));
    }
    let config: PluginConfig = serde_json::from_slice(input)?;
    let mut call = Call::new(config, effects()?)?;
    match command.as_str() {
        "ADD" => call.add(&attachment(env)?, &namespace(env)?).map(Some),
        "DEL" => call.delete(&attachment(env)?).map(|()| None),
        "CHECK" => call.check(&attachment(env)?, &namespace(env)?).map(|()| None),
        "STATUS" => call.status().map(|()| None),
        "GC" => call.collect().map(|()| None),
        _ => Err(PluginError::Environment { name: "CNI_COMMAND", what: format!("is {command:?}, no known command") }),
    }
}

fn required(env: &impl Fn(&str) -> Option<String>, name: &'static str) -> Result<String, PluginError> {
    env(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| PluginError::Environment { name, what: "is missing".to_owned() })
}

/// Which interface of which sandbox. Both become parts of file names, so both are held to the specification's letters.
fn attachment(env: &impl Fn(&str) -> Option<String>) -> Result<Attachment, PluginError> {
    let (container, interface) = (required(env, "CNI_CONTAINERID")?, required(env, "CNI_IFNAME")?);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts_well = |s: &str| s.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if !container.bytes().all(plain) || !starts_well(&container) {
        return Err(PluginError::Environment { name: "CNI_CONTAINERID", what: format!("is no id: {container:?}") });
    }
    if !interface.bytes().all(plain) || !starts_well(&interface) || interface.len() > 15 {
        return Err(PluginError::Environment { name: "CNI_IFNAME", what: format!("is no device name: {interface:?}") });
    }
    Ok(Attachment { container, interface })
}

fn namespace(env: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, PluginError> {
    required(env, "CNI_NETNS").map(PathBuf::from)
}

/// One call of the plugin.
struct Call<'a> {
    config: PluginConfig,
    instance: Instance,
    bookings: Bookings,
    effects: Box<dyn Effects + 'a>,
}

impl<'a> Call<'a> {
    fn new(config: PluginConfig, effects: Box<dyn Effects + 'a>) -> Result<Self, PluginError> {
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            return Err(PluginError::Version(config.cni_version));
        }
        let ranges = config.pod_cidrs.iter().zip(&config.gateways);
        let fits = |(range, gateway): (&IpNet, &IpAddr)| {
            range.max_prefix_len() - range.prefix_len() >= 2 && range.contains(gateway)
        };
        let each = !config.pod_cidrs.is_empty() && config.pod_cidrs.len() == config.gateways.len();
        if !each || !ranges.clone().all(fits) {
            let (ranges, gateways) = (&config.pod_cidrs, &config.gateways);
            let why = format!("podCIDRs {ranges:?} have no room for pods beside gateways {gateways:?}");
            return Err(PluginError::Config(why));
        }
        let instance = Instance::from_id(&config.instance)
            .ok_or_else(|| PluginError::Config(format!("instance {:?} is no id", config.instance)))?;
        let place = format!("open address bookings in {}", config.state_dir.display());
        let bookings = Bookings::open(&config.state_dir).map_err(PluginError::io(place))?;
        Ok(Self { config, instance, bookings, effects })
    }

    fn link(&self, owner: &Attachment, namespace: &Path, addresses: &[IpAddr]) -> PodLink {
        PodLink {
            namespace: namespace.to_owned(),
            interface: owner.interface.clone(),
            host_device: self.instance.pod_device(&owner.container, &owner.interface),
            addresses: addresses.to_vec(),
            gateways: self.config.gateways.clone(),
            mtu: self.config.mtu,
            shapes: self.config.runtime_config.bandwidth.shapes(),
        }
    }

    fn add(&mut self, owner: &Attachment, namespace: &Path) -> Result<Value, PluginError> {
        self.status()?;
        let ranges = self.config.pod_cidrs.iter();
        let claim = |range: &IpNet| self.bookings.claim(*range, &self.config.gateways, owner);
        let addresses: Result<Vec<IpAddr>, PluginError> = ranges.map(claim).collect();
        match addresses.and_then(|addresses| self.build(owner, namespace, addresses)) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // The runtime will call DEL as well; whatever this leaves, that one gets.
                let _ = self.delete(owner);
                Err(error)
            }
        }
    }

    fn build(&mut self, owner: &Attachment, namespace: &Path, addresses: Vec<IpAddr>) -> Result<Value, PluginError> {
        let mappings = self.config.runtime_config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
        let record = Record { addresses, ports: mappings.cloned().collect() };
        self.bookings.keep(owner, &record).map_err(PluginError::io("keep an address booking"))?;
        let link = self.link(owner, namespace, &record.addresses);
        let ends = self.effects.attach(&link)?;
        // The record comes first: should the agent be rebuilding its table just now, it reads the record afterwards.
        if !record.ports.is_empty() {
            self.effects.nft(&ports::add_script(&self.instance, &record)?)?;
        }
        let ip = |(address, gateway): (&IpAddr, &IpAddr)| ResultAddress {
            address: IpNet::from(*address).to_string(),
            gateway: *gateway,
            interface: 1,
        };
        let route = |gw: &IpAddr| ResultRoute { dst: Family::of(*gw).everything(), gw: *gw };
        let result = AddResult {
            cni_version: self.config.cni_version.clone(),
            interfaces: vec![
                ResultInterface { name: link.host_device.clone(), mac: ends.host.mac_text(), sandbox: None },
                ResultInterface {
                    name: link.interface.clone(),
                    mac: ends.pod.mac_text(),
                    sandbox: Some(namespace.display().to_string()),
                },
            ],
            ips: record.addresses.iter().zip(&self.config.gateways).map(ip).collect(),
            routes: self.config.gateways.iter().map(route).collect(),
            dns: serde_json::Map::new(),
        };
        Ok(serde_json::to_value(result)?)
    }

    fn delete(&mut self, owner: &Attachment) -> Result<(), PluginError> {
        let record = self.bookings.record(owner).map_err(PluginError::io("read an address booking"))?;
        for script in record.iter().flat_map(|record| ports::remove_scripts(&self.instance, record)) {
            // Fails where the table went first (the agent was cleaned up) or somebody else has the port by now.
            let _ = self.effects.nft(&script);
        }
        self.effects.detach(&self.instance.pod_device(&owner.container, &owner.interface))?;
        self.bookings.release(owner).map_err(PluginError::io("release an address"))
    }

    fn check(&mut self, owner: &Attachment, namespace: &Path) -> Result<(), PluginError> {
        if self.config.prev_result.is_none() {
            return Err(PluginError::Config("CHECK needs prevResult".to_owned()));
        }
        let record = self.bookings.record(owner).map_err(PluginError::io("read an address booking"))?;
        let record = record.ok_or_else(|| PluginError::Check(format!("{} has no address booked", owner.container)))?;
        let link = self.link(owner, namespace, &record.addresses);
        self.effects.check(&link)
    }

    /// Whether pods can be attached now: the node's device is there.
    fn status(&mut self) -> Result<(), PluginError> {
        let device = self.instance.node_device();
        let devices = self.effects.devices(&device)?;
        if devices.contains(&device) {
            return Ok(());
        }
        Err(PluginError::NotReady(format!("device {device} is missing; is the skiff agent running?")))
    }

    /// Gives back whatever is no longer in use: bookings first known, then devices nobody has booked.
    fn collect(&mut self) -> Result<(), PluginError> {
        let valid = self.config.valid_attachments.take();
        let valid = valid.ok_or_else(|| PluginError::Config("GC needs cni.dev/valid-attachments".to_owned()))?;
        let valid: HashSet<Attachment> = valid.into_iter().collect();
        for owner in self.bookings.owners().map_err(PluginError::io("read address bookings"))? {
            if !valid.contains(&owner) {
                self.delete(&owner)?;
            }
        }
        let kept: HashSet<String> =
            valid.iter().map(|owner| self.instance.pod_device(&owner.container, &owner.interface)).collect();
        for device in self.effects.devices(&self.instance.device_prefix())? {
            if self.instance.is_pod_device(&device) && !kept.contains(&device) {
                self.effects.detach(&device)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
