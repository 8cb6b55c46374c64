//! `exec` and `attach`: a terminal into a container, over WebSocket with Kubernetes' channel protocol v5
//! (<https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>).

use std::io::Write;

use bytes::Bytes;
use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use skiff_client::ws::channel::{CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use skiff_client::{ClientError, ws};
use skiff_meta::Status;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::error::CliError;
use crate::session::Session;
use crate::targets::with_query;
use crate::verbs::logs::pod_of;

/// Which streams are connected.
#[derive(Args, Clone, Default)]
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
        let tty = self.tty && session.interactive();
        if self.tty && !tty {
            session.warn("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        let socket = self.open(session, pod, (verb, command), self.stdin, tty).await?;
        let _raw = if tty { RawTerminal::enter() } else { None };
        relay(session, socket, self.stdin, tty).await
    }

    async fn open(
        &self,
        session: &Session,
        pod: &Value,
        (verb, command): (&str, &[String]),
        stdin: bool,
        tty: bool,
    ) -> Result<ws::Socket, CliError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let container = self.container.clone().unwrap_or_else(|| {
            let annotated = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
            if annotated.is_string() { text(annotated) } else { text(&pod["spec"]["containers"][0]["name"]) }
        });
        let flag = |on: bool| if on { "true" } else { "" };
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/{verb}",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"])
        );
        let mut query = vec![
            ("container", container.as_str()),
            ("stdin", flag(stdin)),
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
        if session.wire.impersonates() {
            return Err(CliError::usage(format!("{verb} cannot be done in another's name (--as)")));
        }
        Ok(ws::connect(&remote, &with_query(&path, &query), &ws::COMMANDS[..1]).await?.0)
    }
}

/// Runs a command whose input and output are channels; what it says of errors goes to the terminal.
pub(super) async fn run_in(
    session: &Session,
    pod: &Value,
    container: Option<&str>,
    command: &[String],
    mut input: Option<mpsc::Receiver<Bytes>>,
    output: Option<mpsc::Sender<Bytes>>,
) -> Result<(), CliError> {
    let streams = Streams { container: container.map(str::to_owned), ..Streams::default() };
    let socket = streams.open(session, pod, ("exec", command), input.is_some(), false).await?;
    let (mut send, mut receive) = socket.split();
    loop {
        tokio::select! {
            piece = async { input.as_mut()?.recv().await }, if input.is_some() => {
                let message = piece.as_ref().map_or_else(|| frame(CLOSE, &[STDIN]), |piece| frame(STDIN, piece));
                if piece.is_none() {
                    input = None;
                }
                send.send(message).await.map_err(broken)?;
            }
            message = receive.next() => match heard(message)? {
                Heard::Other => {}
                Heard::End => return Ok(()),
                Heard::Data(data) => match data.first() {
                    // Whoever reads may have given up; it tells why.
                    Some(&STDOUT) => if let Some(output) = &output && output.send(data.slice(1..)).await.is_err() {
                        return Ok(());
                    },
                    Some(&STDERR) => session.warn(String::from_utf8_lossy(&data[1..]).trim_end()),
                    Some(&ERROR) => return ended(&data[1..]),
                    _ => {}
                },
            },
        }
    }
}

/// What came over the socket.
enum Heard {
    Data(Bytes),
    End,
    Other,
}

fn heard(message: Option<Result<Message, tungstenite::Error>>) -> Result<Heard, CliError> {
    match message {
        None | Some(Ok(Message::Close(_))) => Ok(Heard::End),
        Some(Ok(Message::Binary(data))) => Ok(Heard::Data(data)),
        Some(Ok(_)) => Ok(Heard::Other),
        Some(Err(error)) => Err(broken(error)),
    }
}

fn broken(error: tungstenite::Error) -> CliError {
    CliError::Client(ClientError::Transport(error.to_string()))
}

/// Copies both ways until the server says how the command ended.
async fn relay(session: &mut Session, socket: ws::Socket, with_stdin: bool, tty: bool) -> Result<(), CliError> {
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
                let data = match heard(message)? {
                    Heard::Data(data) => data,
                    Heard::End => return Ok(()),
                    Heard::Other => continue,
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
