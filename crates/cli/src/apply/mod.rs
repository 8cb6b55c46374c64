//! `apply`: makes the cluster's objects what the files say.
//!
//! By default as kubectl does it on the client: the last applied manifest is kept in an annotation, and what is sent is
//! the three-way difference between it, the file and the live object. With `--server-side`, one PATCH and the server
//! decides.

pub mod diff;
pub mod three_way;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use skiff_api::facts;
use skiff_meta::GroupVersionKind;
use skiff_meta::schema::TypeRef;

use crate::error::CliError;
use crate::output::{Format, list_of};
use crate::session::Session;
use crate::targets::{Files, Target, Targets, target_of, with_query};
use crate::wire::PatchType;

/// Where kubectl keeps what was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `apply`, or what it did last.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ApplyOrView {
    #[command(subcommand)]
    view: Option<View>,
    #[command(flatten)]
    apply: Apply,
}

#[derive(Subcommand)]
enum View {
    /// Show what was applied last
    ViewLastApplied {
        #[command(flatten)]
        targets: Targets,
        /// yaml or json
        #[arg(short = 'o', long, default_value = "yaml")]
        output: String,
    },
}

impl ApplyOrView {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let Some(View::ViewLastApplied { targets, output }) = &self.view else {
            return self.apply.run(session).await;
        };
        let format = Format::parse(output)?;
        for (target, object) in targets.fetch(session).await? {
            let text = object["metadata"]["annotations"][LAST_APPLIED].as_str();
            let applied = text.and_then(|text| serde_json::from_str::<Value>(text).ok()).ok_or_else(|| {
                CliError::usage(format!(
                    "no last-applied-configuration annotation found on resource: {}",
                    target.shown()
                ))
            })?;
            session.print(&format.render(&target.kind, &applied)?)?;
        }
        Ok(())
    }
}

/// Apply a configuration to a resource by file name or stdin.
#[derive(Args, Clone)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    /// Let the server merge
    #[arg(long)]
    server_side: bool,
    /// With --server-side: take over fields that others own
    #[arg(long)]
    force_conflicts: bool,
    /// With --server-side: who we are
    #[arg(long, default_value = "kubectl")]
    field_manager: String,
    /// none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged")]
    dry_run: String,
    /// yaml, json, name, ...
    #[arg(short = 'o', long, default_value = "")]
    output: String,
    /// Only manifests with these labels
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// strict, warn or ignore: what happens to unknown fields
    #[arg(long, default_value = "strict")]
    validate: String,
}

/// What became of one manifest.
enum Done {
    Created(Value),
    Configured(Value),
    Unchanged(Value),
    ServerSide(Value),
}

impl Apply {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        if self.files.filename.is_empty() {
            return Err(CliError::usage("must specify one of -f and -k"));
        }
        let format = Format::parse(&self.output)?;
        let (mut shown, mut failed) = (Vec::new(), false);
        for manifest in self.files.read()? {
            match self.one(session, manifest).await {
                Ok(Some((target, done))) => {
                    let (word, object) = match done {
                        Done::Created(object) => ("created", object),
                        Done::Configured(object) => ("configured", object),
                        Done::Unchanged(object) => ("unchanged", object),
                        Done::ServerSide(object) => ("serverside-applied", object),
                    };
                    if format.is_table() {
                        session.line(format!("{} {word}{}", target.shown(), self.dry_run_words()))?;
                    } else {
                        shown.push((target, object));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    session.warn(&error.to_string());
                    failed = true;
                }
            }
        }
        if let Some((target, _)) = shown.first().cloned() {
            let mut objects: Vec<Value> = shown.into_iter().map(|(_, object)| object).collect();
            let value = if objects.len() == 1 { objects.swap_remove(0) } else { list_of(objects) };
            session.print(&format.render(&target.kind, &value)?)?;
        }
        if failed { Err(CliError::Reported) } else { Ok(()) }
    }

    fn dry_run_words(&self) -> &'static str {
        match &*self.dry_run {
            "client" | "unchanged" => " (dry run)",
            "server" => " (server dry run)",
            _ => "",
        }
    }

    async fn one(&self, session: &mut Session, manifest: Value) -> Result<Option<(Target, Done)>, CliError> {
        let mut kinds = session.kinds().await?;
        if kinds.of_object(&manifest).is_err() {
            // A CustomResourceDefinition earlier in the same files may have brought the kind.
            session.forget_kinds();
            kinds = session.kinds().await?;
        }
        let kind = kinds.of_object(&manifest)?.clone();
        if let Some(selector) = &self.selector
            && !matches_labels(&manifest, selector)
        {
            return Ok(None);
        }
        let target = target_of(&manifest, &kind, session);
        if target.name.as_deref().unwrap_or_default().is_empty() {
            return Err(CliError::usage("resource name may not be empty"));
        }
        let done = if self.server_side {
            self.on_server(session, &target, manifest).await?
        } else {
            self.on_client(session, &target, manifest).await?
        };
        Ok(Some((target, done)))
    }

    fn query(&self, path: &str, manager: &str, force: bool) -> String {
        let dry_run = if self.dry_run == "server" { "All" } else { "" };
        let validation = match &*self.validate {
            "true" | "strict" => "Strict",
            "warn" => "Warn",
            _ => "Ignore",
        };
        with_query(
            path,
            &[
                ("dryRun", dry_run),
                ("fieldManager", manager),
                ("fieldValidation", validation),
                ("force", if force { "true" } else { "" }),
            ],
        )
    }

    async fn on_server(&self, session: &Session, target: &Target, manifest: Value) -> Result<Done, CliError> {
        let path = self.query(&target.path(), &self.field_manager, self.force_conflicts);
        Ok(Done::ServerSide(session.wire.patch(&path, PatchType::Apply, &manifest).await?.1))
    }

    async fn on_client(&self, session: &Session, target: &Target, mut manifest: Value) -> Result<Done, CliError> {
        let manager = "kubectl-client-side-apply";
        if target.kind.namespaced {
            manifest["metadata"]["namespace"] = json!(target.namespace);
        }
        annotate(&mut manifest)?;
        let live = match session.wire.get(&target.path()).await {
            Err(error) if error.is_not_found() => {
                if self.is_client_dry_run() {
                    return Ok(Done::Created(manifest));
                }
                let path = self.query(&target.kind.path(&target.namespace), manager, false);
                return Ok(Done::Created(session.wire.create(&path, &manifest).await?));
            }
            other => other?,
        };
        let original =
            live["metadata"]["annotations"][LAST_APPLIED].as_str().and_then(|t| serde_json::from_str(t).ok());
        if original.is_none() {
            session.warn(&format!(
                "Warning: resource {} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
                target.shown().replacen('/', "s/", 1).replacen("ss/", "s/", 1),
            ));
        }
        let gvk = GroupVersionKind::new(
            &*target.kind.group_version.group,
            &*target.kind.group_version.version,
            &*target.kind.kind,
        );
        let schema = facts::schema(&gvk);
        let (ty, root) = match &schema {
            Some(schema) => (PatchType::Strategic, schema.root()),
            None => (PatchType::Merge, TypeRef::any()),
        };
        let patch = three_way::patch(original.as_ref().unwrap_or(&Value::Null), &manifest, &live, root);
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(Done::Unchanged(live));
        }
        if self.is_client_dry_run() {
            return Ok(Done::Configured(live));
        }
        let (_, object) = session.wire.patch(&self.query(&target.path(), manager, false), ty, &patch).await?;
        let same = object["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
        Ok(if same { Done::Unchanged(object) } else { Done::Configured(object) })
    }

    fn is_client_dry_run(&self) -> bool {
        matches!(&*self.dry_run, "client" | "unchanged")
    }
}

/// Writes the manifest into its own annotation.
pub fn annotate(manifest: &mut Value) -> Result<(), CliError> {
    if !manifest["metadata"].is_object() {
        return Err(CliError::usage("the manifest has no metadata"));
    }
    if manifest["metadata"]["annotations"].is_null() {
        manifest["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = manifest["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{manifest}\n");
    manifest["metadata"]["annotations"][LAST_APPLIED] = json!(text);
    Ok(())
}

fn matches_labels(manifest: &Value, selector: &str) -> bool {
    selector.split(',').all(|term| match term.split_once('=') {
        Some((key, value)) => manifest["metadata"]["labels"][key] == value.trim_start_matches('='),
        None => !manifest["metadata"]["labels"][term].is_null(),
    })
}
