//! Services and Ingresses from words.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::generators::{int_or_text, pairs};
use crate::error::CliError;

/// Types of Services.
#[derive(Subcommand)]
pub(super) enum ServiceKind {
    /// An address within the cluster
    Clusterip {
        #[command(flatten)]
        ports: Ports,
        /// The address, or None for a headless Service
        #[arg(long)]
        clusterip: Option<String>,
    },
    /// A port on every node
    Nodeport {
        #[command(flatten)]
        ports: Ports,
        /// The port on the nodes
        #[arg(long)]
        node_port: Option<u16>,
    },
    /// A load balancer outside the cluster
    Loadbalancer {
        #[command(flatten)]
        ports: Ports,
    },
    /// Another name in DNS
    Externalname {
        #[command(flatten)]
        ports: Ports,
        /// The name that it leads to
        #[arg(long)]
        external_name: String,
    },
}

/// Name and ports.
#[derive(Args)]
pub(super) struct Ports {
    name: String,
    /// PORT or PORT:TARGET
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
}

impl ServiceKind {
    /// The type, as Services tell it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Clusterip { .. } => "ClusterIP",
            Self::Nodeport { .. } => "NodePort",
            Self::Loadbalancer { .. } => "LoadBalancer",
            Self::Externalname { .. } => "ExternalName",
        }
    }

    pub(super) fn manifest(&self) -> Result<Value, CliError> {
        let (Self::Clusterip { ports, .. }
        | Self::Nodeport { ports, .. }
        | Self::Loadbalancer { ports }
        | Self::Externalname { ports, .. }) = self;
        let mut entries = ports.tcp.iter().map(|text| port(text)).collect::<Result<Vec<_>, _>>()?;
        let is_headless = matches!(self, Self::Clusterip { clusterip: Some(ip), .. } if ip == "None");
        if entries.is_empty() && !is_headless && !matches!(self, Self::Externalname { .. }) {
            return Err(CliError::usage("at least one tcp port specifier must be provided"));
        }
        if let (Self::Nodeport { node_port: Some(number), .. }, Some(first)) = (self, entries.first_mut()) {
            first["nodePort"] = json!(number);
        }
        let labels = json!({"app": ports.name});
        let mut spec = json!({"type": self.name(), "selector": labels, "ports": entries});
        match self {
            Self::Clusterip { clusterip: Some(ip), .. } => spec["clusterIP"] = json!(ip),
            Self::Externalname { external_name, .. } => spec["externalName"] = json!(external_name),
            _ => {}
        }
        let metadata = json!({"name": ports.name, "labels": labels});
        Ok(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
    }
}

/// `80`, `80:8080` or `80:http`.
fn port(text: &str) -> Result<Value, CliError> {
    let (port, target) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let wrong = || CliError::usage(format!("invalid port format '{text}', must be port or port:targetPort"));
    let number = number(port).ok_or_else(wrong)?;
    let name = text.replace(':', "-");
    Ok(json!({"name": name, "port": number, "protocol": "TCP", "targetPort": int_or_text(target)}))
}

/// What an Ingress is made of.
#[derive(Args)]
pub(super) struct Ingress {
    name: String,
    /// HOST/PATH=SERVICE:PORT[,tls[=SECRET]]; a path that ends in * is a prefix
    #[arg(long, required_unless_present = "default_backend")]
    rule: Vec<String>,
    /// The class
    #[arg(long)]
    class: Option<String>,
    /// SERVICE:PORT for what no rule fits
    #[arg(long)]
    default_backend: Option<String>,
    /// KEY=VALUE
    #[arg(long)]
    annotation: Vec<String>,
}

impl Ingress {
    pub(super) fn manifest(&self) -> Result<Value, CliError> {
        let mut spec = json!({});
        if let Some(class) = &self.class {
            spec["ingressClassName"] = json!(class);
        }
        if let Some(text) = &self.default_backend {
            spec["defaultBackend"] = backend(text)?;
        }
        // Rules of one host stand together, in the order in which hosts come; so do certificates of one Secret.
        let (mut hosts, mut secrets) = (Vec::<(String, Vec<Value>)>::new(), Vec::<(String, Vec<String>)>::new());
        for text in &self.rule {
            let wrong = || {
                CliError::usage(format!(
                    "rule {text} is invalid and should be in format host/path=svcname:svcport[,tls[=secret]]"
                ))
            };
            let (rule, tls) = text.split_once(',').map_or((text.as_str(), None), |(rule, tls)| (rule, Some(tls)));
            let (place, service) = rule.rsplit_once('=').ok_or_else(wrong)?;
            let (host, path) = place.split_once('/').ok_or_else(wrong)?;
            let prefix = path.strip_suffix('*');
            let path = format!("/{}", prefix.unwrap_or(path));
            let path_type = if prefix.is_some() { "Prefix" } else { "Exact" };
            let path = json!({"path": path, "pathType": path_type, "backend": backend(service)?});
            of(&mut hosts, host).push(path);
            if let Some(tls) = tls {
                let secret = tls.strip_prefix("tls").ok_or_else(wrong)?.trim_start_matches('=');
                of(&mut secrets, secret).push(host.to_owned());
            }
        }
        let rule = |(host, paths): (String, Vec<Value>)| match &*host {
            "" => json!({"http": {"paths": paths}}),
            host => json!({"host": host, "http": {"paths": paths}}),
        };
        let certificate = |(secret, mut hosts): (String, Vec<String>)| {
            hosts.retain(|host| !host.is_empty());
            hosts.dedup();
            let mut entry = json!({});
            if !hosts.is_empty() {
                entry["hosts"] = json!(hosts);
            }
            if !secret.is_empty() {
                entry["secretName"] = json!(secret);
            }
            entry
        };
        let certificates: Vec<Value> =
            secrets.into_iter().map(certificate).filter(|entry| *entry != json!({})).collect();
        if !hosts.is_empty() {
            spec["rules"] = hosts.into_iter().map(rule).collect();
        }
        if !certificates.is_empty() {
            spec["tls"] = json!(certificates);
        }
        let mut metadata = json!({"name": self.name});
        if !self.annotation.is_empty() {
            metadata["annotations"] = pairs(&self.annotation)?;
        }
        Ok(json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}))
    }
}

/// The values under a key, which is put at the end if it is new.
fn of<'a, T>(all: &'a mut Vec<(String, Vec<T>)>, key: &str) -> &'a mut Vec<T> {
    let at = all.iter().position(|(known, _)| known == key).unwrap_or(all.len());
    if at == all.len() {
        all.push((key.to_owned(), Vec::new()));
    }
    &mut all[at].1
}

fn backend(text: &str) -> Result<Value, CliError> {
    let wrong = || CliError::usage("default-backend should be in format servicename:serviceport");
    let (service, port) = text.split_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().map_or_else(|_| json!({"name": port}), |number| json!({"number": number}));
    Ok(json!({"service": {"name": service, "port": port}}))
}
