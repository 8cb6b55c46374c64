//! What every verb works with: the cluster, the namespace, the terminal.

use std::io::{IsTerminal, Write};

use skiff_meta::WorldRef;

use crate::error::CliError;
use crate::kinds::Kinds;
use crate::wire::Wire;

/// One run of the CLI.
pub struct Session {
    /// The cluster.
    pub wire: Wire,
    /// Namespace for what has none of its own.
    pub namespace: String,
    /// `--all-namespaces`.
    pub all_namespaces: bool,
    /// Clock.
    pub world: WorldRef,
    kinds: Option<Kinds>,
    out: Box<dyn Write + Send>,
}

impl Session {
    /// A session that prints to `out`.
    pub fn new(
        wire: Wire,
        namespace: String,
        all_namespaces: bool,
        world: WorldRef,
        out: Box<dyn Write + Send>,
    ) -> Self {
        Self { wire, namespace, all_namespaces, world, kinds: None, out }
    }

    /// The kinds of the cluster, asked for once.
    pub async fn kinds(&mut self) -> Result<Kinds, CliError> {
        if self.kinds.is_none() {
            self.kinds = Some(Kinds::discover(&self.wire).await?);
        }
        Ok(self.kinds.clone().unwrap_or_default())
    }

    /// Asks again at the next need: a kind may have come.
    pub fn forget_kinds(&mut self) {
        self.kinds = None;
    }

    /// The namespace to list in: none for all of them.
    pub fn list_namespace(&self) -> &str {
        if self.all_namespaces { "" } else { &self.namespace }
    }

    /// Prints text as it is.
    pub fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.write(text.as_bytes())
    }
    /// Prints a line.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        self.print(&format!("{}\n", text.as_ref()))
    }
    /// Prints bytes, at once.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|e| CliError::Io("stdout".to_owned(), e))
    }
    /// A line for people, not for pipes.
    pub fn warn(&self, text: &str) {
        eprintln!("{text}");
    }
    /// Whether a person is watching.
    pub fn interactive(&self) -> bool {
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }
}
