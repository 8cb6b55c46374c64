//! `exec` and `attach`: a terminal into a container, over WebSocket with Kubernetes' channel protocol v5
//! (<https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>).

use std::io::Write;

use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use skiff_client::{ClientError, ws};
use skiff_meta::Status;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::tungstenite::Message;

use crate::error::CliError;
use crate::session::Session;
use crate::targets::with_query;
use crate::verbs::logs::pod_of;

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Which streams are connected.
#[derive(Args, Clone)]
struct Streams {
    /// Pass our standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Our standard input is a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Container
    #[arg(short = 'c', long)]
    container: Option<String>,
}

/// Execute a command in a container.
#[derive(Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    pod: String,
    #[command(flatten)]
    streams: Streams,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Attach to a process that is already running inside an existing container.
#[derive(Args)]
pub struct Attach {
    /// POD or TYPE/NAME
    pod: String,
    #[command(flatten)]
    streams: Streams,
}

impl Exec {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let pod = pod_of(session, &self.pod).await?;
        self.streams.connect(session, &pod, "exec", &self.command).await
    }
}

impl Attach {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let pod = pod_of(session, &self.pod).await?;
        self.streams.connect(session, &pod, "attach", &[]).await
    }
}

impl Streams {
    async fn connect(
        &self,
        session: &mut Session,
        pod: &Value,
        verb: &str,
        command: &[String],
    ) -> Result<(), CliError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container = self.container.clone().unwrap_or_else(|| {
            let annotated = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
            if annotated.is_string() { text(annotated) } else { text(&pod["spec"]["containers"][0]["name"]) }
        });
        let tty = self.tty && session.interactive();
        if self.tty && !tty {
            session.warn("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        let flag = |on: bool| if on { "true" } else { "" };
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/{verb}",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"])
        );
        let mut query = vec![
            ("container", container.as_str()),
            ("stdin", flag(self.stdin)),
            ("stdout", "true"),
            ("stderr", flag(!tty)),
            ("tty", flag(tty)),
        ];
        query.extend(command.iter().map(|word| ("command", word.as_str())));
        let remote = session
            .wire
            .backend()
            .remote()
            .ok_or_else(|| CliError::usage(format!("{verb} needs a connection over the network")))?;
        let (socket, _) = ws::connect(&remote, &with_query(&path, &query), &[PROTOCOL]).await?;
        let _raw = if tty { RawTerminal::enter() } else { None };
        relay(session, socket, self.stdin, tty).await
    }
}

/// Copies both ways until the server says how the command ended.
async fn relay(session: &mut Session, socket: ws::Socket, with_stdin: bool, tty: bool) -> Result<(), CliError> {
    let broken = |e: tokio_tungstenite::tungstenite::Error| CliError::Client(ClientError::Transport(e.to_string()));
    let (mut send, mut receive) = socket.split();
    if tty && let Some(size) = RawTerminal::size() {
        send.send(frame(RESIZE, &size)).await.map_err(broken)?;
    }
    let (mut stdin, mut reading) = (tokio::io::stdin(), with_stdin);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        tokio::select! {
            read = stdin.read(&mut buffer), if reading => {
                let count = read.map_err(|e| CliError::Io("stdin".to_owned(), e))?;
                reading = count > 0;
                let message = if reading { frame(STDIN, &buffer[..count]) } else { frame(CLOSE, &[STDIN]) };
                send.send(message).await.map_err(broken)?;
            }
            message = receive.next() => {
                let data = match message {
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Ok(Message::Binary(data))) => data,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(broken(error)),
                };
                match data.split_first() {
                    Some((&STDOUT, bytes)) => session.write(bytes)?,
                    Some((&STDERR, bytes)) => std::io::stderr().write_all(bytes).map_err(|e| CliError::Io("stderr".to_owned(), e))?,
                    Some((&ERROR, bytes)) => return ended(bytes),
                    _ => {}
                }
            }
        }
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut data = Vec::with_capacity(bytes.len() + 1);
    data.push(channel);
    data.extend_from_slice(bytes);
    Message::Binary(data.into())
}

/// How the command ended: a `Status`, with the exit code as a cause when it is not zero.
fn ended(bytes: &[u8]) -> Result<(), CliError> {
    let status: Status = serde_json::from_slice(bytes).map_err(|e| ClientError::BadAnswer(e.to_string()))?;
    if status.status == "Success" {
        return Ok(());
    }
    let causes = status.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
    let code = causes.iter().find(|c| c.reason == "ExitCode").and_then(|c| c.message.parse().ok());
    Err(code.map_or_else(|| CliError::usage(format!("Internal error occurred: {status}")), CliError::Exit))
}

/// The terminal without line editing and echo, until dropped.
struct RawTerminal(rustix::termios::Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = rustix::termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
    fn size() -> Option<Vec<u8>> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        Some(format!("{{\"Width\":{},\"Height\":{}}}", size.ws_col, size.ws_row).into_bytes())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that cannot be restored is gone; there is nobody left to tell.
        let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        assert!(ended(br#"{"status":"Success"}"#).is_ok());
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(ended(failed).unwrap_err().code(), 3);
    }
}
