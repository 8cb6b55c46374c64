//! `get`: one, some or all objects, as a table or in another form, once or for as long as one looks.

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::table::{self, Shown};
use crate::output::{Format, items, list_of};
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};
use crate::wire::TABLE;

/// Display one or many resources.
#[derive(Args)]
pub struct Get {
    #[command(flatten)]
    targets: Targets,
    /// wide, yaml, json, name, jsonpath=..., custom-columns=...
    #[arg(short = 'o', long, default_value = "")]
    output: String,
    /// Go on showing changes
    #[arg(short = 'w', long)]
    watch: bool,
    /// Show changes without what is there now
    #[arg(long)]
    watch_only: bool,
    /// Selector (field query) to filter on
    #[arg(long, default_value = "")]
    field_selector: String,
    /// Show labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Show the kind before each name
    #[arg(long)]
    show_kind: bool,
    /// Leave out the heading
    #[arg(long)]
    no_headers: bool,
    /// Sort by this JSONPath
    #[arg(long)]
    sort_by: Option<String>,
    /// Do not fail when a named object is missing
    #[arg(long)]
    ignore_not_found: bool,
    /// Show managedFields in YAML and JSON
    #[arg(long)]
    show_managed_fields: bool,
    /// Objects per request (0: all at once)
    #[arg(long, default_value_t = 500)]
    chunk_size: usize,
    /// Show what was: a revision, a time (2026-01-31T12:00:00Z), or how long ago (10m)
    #[arg(long, conflicts_with_all = ["watch", "watch_only"])]
    at: Option<String>,
    /// A subresource, such as status or scale
    #[arg(long, conflicts_with_all = ["watch", "watch_only"])]
    subresource: Option<String>,
    /// Ask for this path as it is
    #[arg(long)]
    raw: Option<String>,
}

impl Get {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        if let Some(path) = &self.raw {
            let value = session.wire.open(http::Method::GET, path, "*/*", None).await?.1;
            return print_all(session, value).await;
        }
        let format = Format::parse(&self.output)?;
        let targets = self.targets.resolve(session).await?;
        if self.watch || self.watch_only {
            let [target] = &targets[..] else {
                return Err(CliError::usage("you may only specify a single resource type with --watch"));
            };
            return self.watch(session, &format, target).await;
        }
        if format.is_table() {
            self.tables(session, &format, &targets).await
        } else {
            self.objects(session, &format, &targets).await
        }
    }

    fn path(&self, target: &Target) -> String {
        let selector = self.targets.selector.as_deref().unwrap_or("");
        let at = ("at", self.at.as_deref().unwrap_or(""));
        match target.name {
            Some(_) => {
                let below = self.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
                with_query(&format!("{}{below}", target.path()), &[at])
            }
            None => {
                with_query(&target.path(), &[("labelSelector", selector), ("fieldSelector", &self.field_selector), at])
            }
        }
    }

    /// A whole collection or one object, collected from pages.
    async fn fetch(&self, session: &Session, target: &Target, accept: &str) -> Result<Option<Value>, CliError> {
        let path = self.path(target);
        let pages = target.name.is_none() && self.chunk_size > 0 && self.at.is_none();
        let limit = if pages { self.chunk_size.to_string() } else { String::new() };
        let first = session.wire.get_as(&with_query(&path, &[("limit", &limit)]), accept).await;
        let mut whole = match first {
            Err(error) if self.ignore_not_found && error.is_not_found() => return Ok(None),
            other => other?,
        };
        while let Some(token) = whole["metadata"]["continue"].as_str().filter(|t| !t.is_empty()).map(str::to_owned) {
            let mut page =
                session.wire.get_as(&with_query(&path, &[("limit", &limit), ("continue", &token)]), accept).await?;
            for list in ["items", "rows"] {
                if let (Some(all), Some(more)) = (whole[list].as_array_mut(), page[list].as_array_mut()) {
                    all.append(more);
                }
            }
            whole["metadata"] = page["metadata"].take();
        }
        Ok(Some(whole))
    }

    async fn tables(&self, session: &mut Session, format: &Format, targets: &[Target]) -> Result<(), CliError> {
        let several = targets.iter().any(|t| t.kind.named() != targets[0].kind.named());
        let (mut shown_any, mut failed) = (false, false);
        for group in targets.chunk_by(|a, b| a.name.is_some() && b.name.is_some() && a.kind.named() == b.kind.named()) {
            let mut rows: Vec<Vec<String>> = Vec::new();
            for target in group {
                match self.fetch(session, target, TABLE).await {
                    Ok(None) => {}
                    Ok(Some(mut table)) => {
                        self.sort(&mut table)?;
                        let no_headers = self.no_headers || !rows.is_empty();
                        let more = table::rows(
                            &table,
                            Shown { no_headers, ..self.shown(session, format, target, several) },
                            &target.kind.named(),
                        );
                        if table["rows"].as_array().is_some_and(|r| !r.is_empty()) {
                            rows.extend(more);
                        }
                    }
                    Err(error) => {
                        session.warn(&error.to_string());
                        failed = true;
                    }
                }
            }
            if rows.is_empty() {
                continue;
            }
            if shown_any && several {
                session.line("")?;
            }
            shown_any = true;
            session.print(&table::align(&rows))?;
        }
        if failed {
            return Err(CliError::Reported);
        }
        if !shown_any && !self.ignore_not_found {
            let place = if session.all_namespaces || !targets[0].kind.namespaced {
                String::new()
            } else {
                format!(" in {} namespace.", session.namespace)
            };
            session.warn(&format!("No resources found{place}"));
        }
        Ok(())
    }

    fn shown(&self, session: &Session, format: &Format, target: &Target, several: bool) -> Shown {
        Shown {
            wide: *format == Format::Wide,
            namespace: session.all_namespaces && target.kind.namespaced,
            labels: self.show_labels,
            no_headers: self.no_headers,
            kind: several || self.show_kind,
        }
    }

    fn sort(&self, table: &mut Value) -> Result<(), CliError> {
        let Some(path) = &self.sort_by else { return Ok(()) };
        let path = crate::output::jsonpath::JsonPath::parse(path)?;
        if let Some(rows) = table["rows"].as_array_mut() {
            rows.sort_by_cached_key(|row| sort_key(&path.render(&row["object"])));
        }
        Ok(())
    }

    async fn objects(&self, session: &mut Session, format: &Format, targets: &[Target]) -> Result<(), CliError> {
        let single = targets.len() == 1 && targets[0].name.is_some();
        let mut all = Vec::new();
        for target in targets {
            let Some(value) = self.fetch(session, target, "application/json").await? else { continue };
            for mut item in items(&value) {
                if item["kind"].is_null() {
                    item["apiVersion"] = target.kind.group_version.to_string().into();
                    item["kind"] = target.kind.kind.clone().into();
                }
                if !self.show_managed_fields
                    && let Some(metadata) = item["metadata"].as_object_mut()
                {
                    metadata.remove("managedFields");
                }
                all.push(item);
            }
        }
        if let Some(path) = &self.sort_by {
            let path = crate::output::jsonpath::JsonPath::parse(path)?;
            all.sort_by_cached_key(|item| sort_key(&path.render(item)));
        }
        if single && all.is_empty() {
            return Ok(());
        }
        if *format == Format::Name {
            for (target, item) in targets.iter().cycle().zip(&all).take(all.len()) {
                let named = session.kinds().await?.of_object(item).map_or_else(|_| target.kind.named(), |k| k.named());
                session.line(format!("{named}/{}", item["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
            return Ok(());
        }
        let value = if single { all.swap_remove(0) } else { list_of(all) };
        let text = format.render(&targets[0].kind, &value)?;
        session.print(&text)
    }

    async fn watch(&self, session: &mut Session, format: &Format, target: &Target) -> Result<(), CliError> {
        let accept = if format.is_table() { TABLE } else { "application/json" };
        let shown = self.shown(session, format, target, false);
        let mut widths = Vec::new();
        let list = self.fetch(session, target, accept).await?.unwrap_or_default();
        if !self.watch_only {
            self.show(session, format, target, &list, shown, &mut widths)?;
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let fields = match &target.name {
            Some(name) => format!("metadata.name={name}"),
            None => self.field_selector.clone(),
        };
        let selector = self.targets.selector.clone().unwrap_or_default();
        let collection = target.kind.path(&target.namespace);
        let path = with_query(
            &collection,
            &[
                ("watch", "true"),
                ("resourceVersion", &version),
                ("labelSelector", &selector),
                ("fieldSelector", &fields),
            ],
        );
        let mut lines = session.wire.watch(&path, accept).await?;
        let mut header_shown = !self.watch_only && !widths.is_empty();
        while let Some(event) = lines.next().await? {
            match event["type"].as_str() {
                Some("BOOKMARK") => {}
                Some("ERROR") => {
                    return Err(CliError::usage(event["object"]["message"].as_str().unwrap_or("watch failed")));
                }
                _ => {
                    let shown = Shown { no_headers: shown.no_headers || header_shown, ..shown };
                    self.show(session, format, target, &event["object"], shown, &mut widths)?;
                    header_shown = true;
                }
            }
        }
        Ok(())
    }

    fn show(
        &self,
        session: &mut Session,
        format: &Format,
        target: &Target,
        value: &Value,
        shown: Shown,
        widths: &mut Vec<usize>,
    ) -> Result<(), CliError> {
        if format.is_table() {
            let empty = value["rows"].as_array().is_none_or(Vec::is_empty);
            let rows = table::rows(value, shown, &target.kind.named());
            return if empty { Ok(()) } else { session.print(&table::align_to(&rows, widths)) };
        }
        let text = format.render(&target.kind, value)?;
        session.print(&text)
    }
}

/// Numbers sort as numbers, all else as text.
fn sort_key(text: &str) -> (u8, u64, String) {
    match text.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, text.to_owned()),
    }
}

/// Copies a body to the terminal as it comes.
pub async fn print_all(session: &mut Session, body: skiff_client::Body) -> Result<(), CliError> {
    use futures::StreamExt;
    let mut chunks = crate::wire::chunks(body);
    while let Some(chunk) = chunks.next().await {
        session.write(&chunk?)?;
    }
    Ok(())
}
