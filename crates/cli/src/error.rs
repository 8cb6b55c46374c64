//! What a verb can fail with, and the line that people see.

use skiff_client::ClientError;
use skiff_meta::Status;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The words make no sense; says what would.
    #[error("error: {0}")]
    Usage(String),
    /// The server said no.
    #[error("{}", api_words(.0))]
    Api(Box<Status>),
    /// The server was not reached.
    #[error("Unable to connect to the server: {0}")]
    Client(ClientError),
    /// A file or the terminal.
    #[error("error: {0}: {1}")]
    Io(String, #[source] std::io::Error),
    /// A command in a container ended with this code.
    #[error("command terminated with exit code {0}")]
    Exit(i32),
    /// A verb failed that ends with 1 to say something else.
    #[error("{0}")]
    Trouble(Box<CliError>),
    /// Several things failed; each was printed already.
    #[error("")]
    Reported,
}

fn api_words(status: &Status) -> String {
    if status.reason.is_empty() {
        format!("Error from server: {status}")
    } else if status.reason == "Invalid" {
        // What is about no object is about the request.
        let text = format!("The {status}").replacen("The  \"\" is invalid", "The request is invalid", 1);
        text.replacen("is invalid: [", "is invalid: ", 1).trim_end_matches(']').to_owned()
    } else {
        format!("Error from server ({}): {status}", status.reason)
    }
}

impl CliError {
    /// The process's exit code.
    pub fn code(&self) -> i32 {
        match self {
            Self::Exit(code) => *code,
            Self::Trouble(error) => error.code() + 1,
            _ => 1,
        }
    }
    /// Whether the object asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(status) if status.is("NotFound"))
    }
    /// The same refusal, saying what was being done with which file.
    #[must_use]
    pub fn at(mut self, doing: &str, source: &str) -> Self {
        if let Self::Api(status) = &mut self {
            status.message = format!("error when {doing} \"{source}\": {}", status.message);
        }
        self
    }
    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(status) => Self::Api(Box::new(status)),
            other => Self::Client(other),
        }
    }
}
