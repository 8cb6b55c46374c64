//! WebSockets to the API server: exec, attach, port-forward. The upgrade, over the same TLS and with the same credentials as
//! requests, and what their messages begin with.

use http::{HeaderValue, header};
use skiff_meta::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, protocol::WebSocketConfig};

use crate::backend::ClientError;
use crate::config::Remote;
use crate::http::{Endpoint, bearer, dial};

pub use crate::http::Raw;
pub use tokio_tungstenite::tungstenite::Message;

/// What both ends speak of a command or a terminal, the best first; only the first has a word for the end of the input.
pub const COMMANDS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The first byte of a message: what it is about.
pub mod channel {
    /// What the command reads.
    pub const STDIN: u8 = 0;
    /// What it says.
    pub const STDOUT: u8 = 1;
    /// What it complains of.
    pub const STDERR: u8 = 2;
    /// A `Status`: how it ended.
    pub const ERROR: u8 = 3;
    /// The size of the terminal.
    pub const RESIZE: u8 = 4;
    /// The channel in the next byte has ended.
    pub const CLOSE: u8 = 255;
}

/// An open WebSocket to the API server.
pub type Socket = WebSocketStream<Raw>;

/// Upgrades `path` (with its query, escaped) to a WebSocket that speaks one of `subprotocols`; which one the server chose
/// is returned beside it (empty: none).
///
/// # Errors
/// The server's refusal as [`ClientError::Api`], or why it was not reached.
pub async fn connect(remote: &Remote, path: &str, subprotocols: &[&str]) -> Result<(Socket, String), ClientError> {
    let endpoint = Endpoint::new(remote)?;
    let uri = format!("{}{path}", endpoint.websocket_base());
    let mut request = uri.into_client_request().map_err(|e| ClientError::Config(format!("bad path {path:?}: {e}")))?;
    let headers = request.headers_mut();
    // Upstream's watches take WebSockets from nobody who does not say where he comes from.
    if let Ok(origin) = HeaderValue::try_from(&remote.server) {
        headers.insert(header::ORIGIN, origin);
    }
    if !subprotocols.is_empty() {
        let offered = HeaderValue::try_from(subprotocols.join(", "));
        let offered = offered.map_err(|e| ClientError::Config(format!("bad subprotocol: {e}")))?;
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, offered);
    }
    if let Some(token) = remote.read_token()? {
        headers.insert(header::AUTHORIZATION, bearer(&token)?);
    }
    if let Some(cause) = crate::trace::current()
        && let Ok(value) = HeaderValue::try_from(cause.to_string())
    {
        headers.insert("traceparent", value);
    }
    let stream = dial(&endpoint, remote).await?;
    let limits = WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(16 << 20));
    match tokio_tungstenite::client_async_with_config(request, stream, Some(limits)).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            let chosen = chosen.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            Ok((socket, chosen))
        }
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: Error) -> ClientError {
    let Error::Http(response) = error else {
        return ClientError::Transport(format!("the WebSocket was not opened: {error}"));
    };
    let body = response.body().as_deref().unwrap_or_default();
    match serde_json::from_slice::<Status>(body) {
        Ok(status) if status.kind == "Status" => ClientError::Api(status),
        _ => {
            let text = String::from_utf8_lossy(body);
            let message =
                format!("unable to upgrade connection: {}", if text.is_empty() { "no reason given" } else { &text });
            ClientError::Api(Status::failure(response.status().as_u16(), "", message))
        }
    }
}
