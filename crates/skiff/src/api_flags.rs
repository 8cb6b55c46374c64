//! Flags of the API server that upstream has as well, under its names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use skiff_client::Backend;
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_meta::WorldRef;
use skiff_server::admission::config::AdmissionConfig;
use skiff_server::audit::{AuditConfig, Batching, LogOptions, Mode, Policy, WebhookOptions};
use skiff_server::auth::{AuthenticationConfig, AuthorizationConfig, Oidc};
use skiff_server::encryption::{EncryptionConfig, Keyring};
use skiff_server::{Live, ServerConfig};

use crate::error::StartError;
use crate::follow::Followed;

/// What stands around the API.
#[derive(Args)]
pub(crate) struct ApiFlags {
    /// Reads answered at the same time; with the writes: the seats that priority levels share
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: u32,
    /// Writes answered at the same time
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: u32,
    /// Let requests queue fairly, by FlowSchemas and PriorityLevelConfigurations
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    enable_priority_and_fairness: bool,
    /// How long a request may take that is no watch and no connection to a pod
    #[arg(long, default_value = "1m")]
    request_timeout: String,
    /// An EncryptionConfiguration (apiserver.config.k8s.io/v1): what is encrypted in the store, and by which keys
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Go on with that file when it changes
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    encryption_provider_config_automatic_reload: bool,
    /// An AdmissionConfiguration (apiserver.config.k8s.io/v1): what PodSecurity, ResourceQuota and webhooks are told
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
    /// An AuthenticationConfiguration (apiserver.config.k8s.io/v1): whose tokens are believed
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    authentication_config: Option<PathBuf>,
    /// An AuthorizationConfiguration (apiserver.config.k8s.io/v1): who decides what they may [default: Node, RBAC]
    #[arg(long, value_name = "FILE")]
    authorization_config: Option<PathBuf>,
    /// An OpenID Connect issuer whose tokens are believed
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The audience its tokens must be for
    #[arg(long, default_value = "")]
    oidc_client_id: String,
    /// The claim that names the user
    #[arg(long, default_value = "sub")]
    oidc_username_claim: String,
    /// What is put before it (`-`: nothing) [default: the issuer's URL and `#`, nothing for `email`]
    #[arg(long, default_value = "", hide_default_value = true)]
    oidc_username_prefix: String,
    /// The claim that names the user's groups
    #[arg(long, default_value = "")]
    oidc_groups_claim: String,
    /// What is put before them
    #[arg(long, default_value = "")]
    oidc_groups_prefix: String,
    /// Who signs the issuer's certificate (PEM) [default: the system's authorities]
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// A claim that must have a value, KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    oidc_required_claim: Vec<String>,
    #[command(flatten)]
    audit: AuditFlags,
}

impl ApiFlags {
    /// Whose tokens are believed.
    fn authentication(&self, world: &WorldRef) -> Result<Option<Arc<Live<AuthenticationConfig>>>, StartError> {
        let wrong =
            |flag, value: &dyn std::fmt::Display, why: String| StartError::Flag { flag, value: value.to_string(), why };
        if let Some(file) = self.authentication_config.clone() {
            let text = read(&file)?;
            let first = AuthenticationConfig::read(&text);
            let first = first.map_err(|e| wrong("authentication-config", &file.display(), e.to_string()))?;
            let live = Live::shared(first.clone());
            let taken = live.clone();
            let take = move |text: &str| {
                taken.replace(AuthenticationConfig::read_again(text, &first).map_err(|error| error.to_string())?);
                Ok(())
            };
            follow("authentication-config", file, text, world, Box::new(take))?;
            return Ok(Some(live));
        }
        let Some(issuer) = self.oidc_issuer_url.clone() else { return Ok(None) };
        let pair = |text: &String| {
            let (claim, value) = text.split_once('=')?;
            Some((claim.to_owned(), value.to_owned()))
        };
        let required = self
            .oidc_required_claim
            .iter()
            .map(|text| pair(text).ok_or_else(|| wrong("oidc-required-claim", text, "must be KEY=VALUE".to_owned())));
        let oidc = Oidc {
            client_id: self.oidc_client_id.clone(),
            authority: self.oidc_ca_file.as_deref().map(read).transpose()?.unwrap_or_default(),
            username: (self.oidc_username_claim.clone(), self.oidc_username_prefix.clone()),
            groups: (self.oidc_groups_claim.clone(), self.oidc_groups_prefix.clone()),
            required: required.collect::<Result<_, _>>()?,
            issuer,
        };
        let shown = oidc.issuer.clone();
        let config = AuthenticationConfig::of_flags(oidc);
        config.map(Live::shared).map(Some).map_err(|e| wrong("oidc-issuer-url", &shown, e.to_string()))
    }

    /// Who decides what they may.
    fn authorization(&self, world: &WorldRef) -> Result<Arc<Live<AuthorizationConfig>>, StartError> {
        let Some(file) = self.authorization_config.clone() else { return Ok(Live::shared(Default::default())) };
        let network = world.clone();
        let connect = move |path: &str| {
            let remote = Kubeconfig::load(Path::new(path)).and_then(|config| config.remote(None));
            let backend = remote.and_then(|remote| HttpBackend::new(remote, network.clone(), "kube-apiserver"));
            backend.map(|backend| Arc::new(backend) as Arc<dyn Backend>).map_err(|error| error.to_string())
        };
        let text = read(&file)?;
        let first = AuthorizationConfig::read(&text, &connect).map_err(|error| StartError::Flag {
            flag: "authorization-config",
            value: file.display().to_string(),
            why: error.to_string(),
        })?;
        let live = Live::shared(first.clone());
        let taken = live.clone();
        let take = move |text: &str| {
            let config = AuthorizationConfig::read_again(text, &connect, &first).map_err(|error| error.to_string())?;
            taken.replace(config);
            Ok(())
        };
        follow("authorization-config", file, text, world, Box::new(take))?;
        Ok(live)
    }

    /// What admission plug-ins are told.
    fn admission(&self) -> Result<AdmissionConfig, StartError> {
        let Some(file) = &self.admission_control_config_file else { return Ok(AdmissionConfig::default()) };
        let beside = |name: &str| {
            let path = file.parent().unwrap_or(Path::new("")).join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        AdmissionConfig::read(&read(file)?, &beside).map_err(|error| StartError::Flag {
            flag: "admission-control-config-file",
            value: file.display().to_string(),
            why: error.to_string(),
        })
    }

    /// The keys for the store, which follow their file.
    pub(crate) fn keyring(&self, world: &WorldRef) -> Result<Option<Arc<Keyring>>, StartError> {
        let Some(file) = self.encryption_provider_config.clone() else { return Ok(None) };
        let wrong = |why: String| StartError::Flag {
            flag: "encryption-provider-config",
            value: file.display().to_string(),
            why,
        };
        let text = read(&file)?;
        let keys = Keyring::new(EncryptionConfig::read(&text).map_err(|e| wrong(e.to_string()))?, world.clone());
        if self.encryption_provider_config_automatic_reload {
            let taken = keys.clone();
            let take = move |text: &str| {
                taken.replace(EncryptionConfig::read(text).map_err(|error| error.to_string())?);
                Ok(())
            };
            follow("encryption-provider-config", file, text, world, Box::new(take))?;
        }
        Ok(Some(keys))
    }
}

/// Takes over what a file says by now.
type Take = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Takes over what the file says whenever it says something else than `known`. What is not good is told, and changes
/// nothing.
fn follow(
    flag: &'static str,
    file: PathBuf,
    mut known: String,
    world: &WorldRef,
    take: Take,
) -> Result<(), StartError> {
    let mut followed = Followed::new(&file).map_err(|error| StartError::Flag {
        flag,
        value: file.display().to_string(),
        why: format!("cannot be followed: {error}"),
    })?;
    let task = async move {
        loop {
            if let Err(error) = followed.changed().await {
                return tracing::error!("{} is no longer followed: {error}", file.display());
            }
            match read(&file) {
                Ok(text) if text == known => {}
                Ok(text) => {
                    match take(&text) {
                        Ok(()) => tracing::info!("{} has changed and is in use", file.display()),
                        Err(error) => tracing::error!("{}: {error}", file.display()),
                    }
                    known = text;
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    };
    world.spawn(flag, Box::pin(task));
    Ok(())
}

/// The audit log.
#[derive(Args)]
struct AuditFlags {
    /// A Policy (audit.k8s.io/v1): what is written down of which requests
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Write the audit log to this file; `-` is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Days that older files of the audit log are kept (0: for ever)
    #[arg(long, default_value_t = 0)]
    audit_log_maxage: u32,
    /// Older files of the audit log that are kept (0: all)
    #[arg(long, default_value_t = 0)]
    audit_log_maxbackup: u32,
    /// Megabytes after which a new file is begun (0: 100)
    #[arg(long, default_value_t = 0)]
    audit_log_maxsize: u32,
    /// Whether requests wait until they are written
    #[arg(long, default_value = "blocking")]
    audit_log_mode: AuditMode,
    /// Send the audit log to the server that this kubeconfig names
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_webhook_config_file: Option<PathBuf>,
    /// Whether requests wait until they are sent
    #[arg(long, default_value = "batch")]
    audit_webhook_mode: AuditMode,
    /// Pause before a failed request is sent again
    #[arg(long, default_value = "10s")]
    audit_webhook_initial_backoff: String,
    /// Events that may wait to be sent
    #[arg(long, default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// Events sent at once
    #[arg(long, default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long the first of them waits for more
    #[arg(long, default_value = "30s")]
    audit_webhook_batch_max_wait: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum AuditMode {
    Batch,
    Blocking,
    BlockingStrict,
}

impl From<AuditMode> for Mode {
    fn from(mode: AuditMode) -> Self {
        match mode {
            AuditMode::Batch => Self::Batch,
            AuditMode::Blocking => Self::Blocking,
            AuditMode::BlockingStrict => Self::BlockingStrict,
        }
    }
}

impl AuditFlags {
    fn config(&self) -> Result<Option<AuditConfig>, StartError> {
        let Some(file) = &self.audit_policy_file else { return Ok(None) };
        let wrong = |flag, path: &Path, why: String| StartError::Flag { flag, value: path.display().to_string(), why };
        let policy = Policy::read(&read(file)?).map_err(|e| wrong("audit-policy-file", file, e.to_string()))?;
        let log = self.audit_log_path.clone().map(|path| {
            let (max_age, max_backups) = (self.audit_log_maxage, self.audit_log_maxbackup);
            let options = LogOptions { path, max_age, max_backups, max_size: self.audit_log_maxsize };
            (options, self.audit_log_mode.into())
        });
        let webhook = match &self.audit_webhook_config_file {
            None => None,
            Some(file) => {
                let remote = Kubeconfig::load(file).and_then(|config| config.remote(None));
                let remote = remote.map_err(|e| wrong("audit-webhook-config-file", file, e.to_string()))?;
                let pause = time("audit-webhook-initial-backoff", &self.audit_webhook_initial_backoff)?;
                Some((WebhookOptions { remote, initial_backoff: pause }, self.audit_webhook_mode.into()))
            }
        };
        let batching = Batching {
            buffer: self.audit_webhook_batch_buffer_size,
            most: self.audit_webhook_batch_max_size.max(1),
            wait: time("audit-webhook-batch-max-wait", &self.audit_webhook_batch_max_wait)?,
            ..Batching::default()
        };
        Ok(Some(AuditConfig { policy, log, webhook, batching }))
    }
}

fn read(file: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(file).map_err(|e| StartError::Io(file.display().to_string(), e))
}

impl ApiFlags {
    /// Puts what was said into the server's configuration.
    pub(crate) fn apply(&self, config: &mut ServerConfig, world: &WorldRef) -> Result<(), StartError> {
        config.max_in_flight = (self.max_requests_inflight, self.max_mutating_requests_inflight);
        config.priority_and_fairness = self.enable_priority_and_fairness;
        config.request_timeout = time("request-timeout", &self.request_timeout)?;
        config.audit = self.audit.config()?;
        config.authentication = self.authentication(world)?;
        config.authorization = self.authorization(world)?;
        config.admission = self.admission()?;
        if config.max_in_flight.0.checked_add(config.max_in_flight.1).is_none_or(|sum| sum == 0) {
            let value = format!("{} and {}", config.max_in_flight.0, config.max_in_flight.1);
            let why = "are together no number of requests a server can answer at once".to_owned();
            return Err(StartError::Flag { flag: "max-requests-inflight", value, why });
        }
        Ok(())
    }
}

fn time(flag: &'static str, text: &str) -> Result<Duration, StartError> {
    let time = skiff_meta::duration::parse(text).filter(|time| !time.is_zero());
    let why = || "is no length of time, such as 30s, 1m or 2h".to_owned();
    time.ok_or_else(|| StartError::Flag { flag, value: text.to_owned(), why: why() })
}
