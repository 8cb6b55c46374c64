//! `port-forward`: local ports that lead to ports of a pod, a WebSocket per connection. Its messages begin with a channel
//! (0 data, 1 why it failed), and the first of each channel names the port.

use clap::Args;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use skiff_client::config::Remote;
use skiff_client::ws;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::logs::pod_of;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::with_query;

const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;

/// Forward one or more local ports to a pod.
#[derive(Args)]
pub struct PortForward {
    /// POD or TYPE/NAME
    pod: String,
    /// [LOCAL:]REMOTE; :REMOTE takes any free port
    #[arg(required = true)]
    ports: Vec<String>,
    /// Addresses to listen on
    #[arg(long, value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

/// One local port and where it leads.
struct Door {
    listener: TcpListener,
    local: u16,
    remote: u16,
}

impl PortForward {
    /// Runs the verb, until it is interrupted.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let object = match self.pod.split_once('/') {
            Some((kind, name)) => {
                let kind = session.kinds().await?.find(kind)?.clone();
                session.wire.get(&kind.object_path(&session.namespace, name)).await?
            }
            None => Value::Null,
        };
        let pod = pod_of(session, &self.pod).await?;
        if pod["status"]["phase"] != "Running" {
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            return Err(CliError::usage(format!(
                "unable to forward port because pod is not running. Current status={phase}"
            )));
        }
        let missing = || CliError::usage("port-forward needs a connection over the network");
        let remote = session.wire.backend().remote().ok_or_else(missing)?;
        if session.wire.impersonates() {
            return Err(CliError::usage("port-forward cannot be done in another's name (--as)"));
        }
        let mut doors = Vec::new();
        for text in &self.ports {
            let (local, port) = ports(text, &object, &pod)?;
            self.open(session, local, port, &mut doors).await?;
        }
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/portforward",
            pod["metadata"]["namespace"].as_str().unwrap_or_default(),
            pod["metadata"]["name"].as_str().unwrap_or_default()
        );
        let mut coming: FuturesUnordered<_> = doors.iter().map(accept).collect();
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some((door, accepted)) = coming.next() => {
                    coming.push(accept(door));
                    let stream = accepted.map_err(|e| CliError::Io(format!("port {}", door.local), e))?;
                    session.line(format!("Handling connection for {}", door.local))?;
                    open.push(forward(&remote, &path, door, stream));
                }
                Some(ended) = open.next() => if let Err(why) = ended {
                    session.warn(&format!("error: {why}"));
                },
            }
        }
    }

    async fn open(
        &self,
        session: &mut Session,
        local: u16,
        remote: u16,
        doors: &mut Vec<Door>,
    ) -> Result<(), CliError> {
        let both = ["127.0.0.1", "::1"];
        let hosts =
            self.address.iter().flat_map(|host| if host == "localhost" { both.to_vec() } else { vec![host.as_str()] });
        let (mut chosen, before, mut failed) = (local, doors.len(), None);
        for host in hosts {
            match TcpListener::bind((host, chosen)).await {
                Ok(listener) => {
                    let bound = listener.local_addr().map_err(|e| CliError::Io(host.to_owned(), e))?;
                    // Both addresses of localhost have the same port.
                    chosen = bound.port();
                    session.line(format!("Forwarding from {bound} -> {remote}"))?;
                    doors.push(Door { listener, local: chosen, remote });
                }
                Err(error) => failed = Some(CliError::Io(format!("unable to listen on {host}:{chosen}"), error)),
            }
        }
        // A machine may lack one of the addresses.
        match failed {
            Some(error) if doors.len() == before => Err(error),
            _ => Ok(()),
        }
    }
}

async fn accept(door: &Door) -> (&Door, std::io::Result<TcpStream>) {
    (door, door.listener.accept().await.map(|(stream, _)| stream))
}

/// Local and remote port of `80`, `8080:80`, `:80` or `8080:http`. Ports of a Service become those of its pod.
fn ports(text: &str, object: &Value, pod: &Value) -> Result<(u16, u16), CliError> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let wrong = || CliError::usage(format!("invalid port format '{text}'"));
    let mut wanted = Value::from(remote);
    if object["kind"] == "Service" {
        let entries = object["spec"]["ports"].as_array().into_iter().flatten();
        let entry = entries
            .into_iter()
            .find(|p| p["name"] == remote || p["port"].as_u64().is_some_and(|port| remote.parse() == Ok(port)));
        let entry = entry.ok_or_else(|| CliError::usage(format!("Service does not have a service port {remote}")))?;
        // Of a headless Service the pods' ports are meant.
        let target = if object["spec"]["clusterIP"] == "None" { &entry["port"] } else { &entry["targetPort"] };
        wanted = if target.is_null() { entry["port"].clone() } else { target.clone() };
    }
    let number = |value: &Value| match value {
        Value::String(text) => text.parse::<u16>().ok(),
        number => number.as_u64().and_then(|n| u16::try_from(n).ok()),
    };
    let named = || {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut all = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
        all.find(|p| p["name"] == wanted).and_then(|p| number(&p["containerPort"]))
    };
    let remote_port = number(&wanted).or_else(named).filter(|port| *port > 0).ok_or_else(wrong)?;
    let local_port = match local {
        "" => 0,
        // `web/http` without a local port takes the pod's.
        same if same == text => same.parse().unwrap_or(remote_port),
        other => other.parse().map_err(|_| wrong())?,
    };
    Ok((local_port, remote_port))
}

/// Copies both ways until one side has nothing more.
async fn forward(remote: &Remote, path: &str, door: &Door, stream: TcpStream) -> Result<(), String> {
    let path = with_query(path, &[("ports", &door.remote.to_string())]);
    let failed = |why: &dyn std::fmt::Display| format!("forwarding {} -> {}: {why}", door.local, door.remote);
    let (socket, _) = ws::connect(remote, &path, &[PROTOCOL]).await.map_err(|e| failed(&e))?;
    let (mut send, mut receive) = socket.split();
    let (mut from_client, mut to_client) = stream.into_split();
    let (mut begun, mut reading, mut buffer) = ([false; 2], true, vec![DATA; 32 * 1024]);
    loop {
        tokio::select! {
            read = from_client.read(&mut buffer[1..]), if reading => match read {
                // The protocol cannot tell an end of input: what is asked for may still come.
                Ok(0) | Err(_) => reading = false,
                Ok(count) => {
                    let message = Message::Binary(buffer[..=count].to_vec().into());
                    send.send(message).await.map_err(|e| failed(&e))?;
                }
            },
            message = receive.next() => {
                let data = match message {
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Ok(Message::Binary(data))) => data,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(failed(&error)),
                };
                let Some((channel @ 0..=1, bytes)) = data.split_first() else { continue };
                let at = usize::from(*channel);
                if !std::mem::replace(&mut begun[at], true) {
                    continue;
                }
                if *channel != DATA {
                    return Err(failed(&String::from_utf8_lossy(bytes).trim()));
                }
                if to_client.write_all(bytes).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_for_ports() {
        let pod = json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service =
            json!({"kind": "Service", "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}]}});
        for (text, object, expected) in [
            ("80", &Value::Null, (80, 80)),
            ("81:80", &Value::Null, (81, 80)),
            (":80", &Value::Null, (0, 80)),
            ("9000:http", &Value::Null, (9000, 8080)),
            ("80", &service, (80, 8080)),
            ("81:web", &service, (81, 8080)),
        ] {
            assert_eq!(ports(text, object, &pod).unwrap(), expected, "{text}");
        }
        for wrong in ["x:80", "nonsense", "0"] {
            assert!(ports(wrong, &Value::Null, &pod).is_err(), "{wrong}");
        }
        assert!(ports("90", &service, &pod).is_err());
    }
}
