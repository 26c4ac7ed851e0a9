//! Settings: built-in defaults, then a TOML file, then the environment, then flags. The only module that reads them.

mod flags;
mod hub;
mod sections;

use std::collections::{HashMap, HashSet};

use config::{Config, Environment, File, FileFormat, Source};
use serde::{Deserialize, Serialize};

pub use flags::{Command, Flags, NamedFolder};
pub use hub::hub;
pub use sections::{ApiKeys, EngineSettings, LimitSettings, ModelSettings, ServerSettings};

use crate::decode::DecodeOptions;
use crate::service::speaker::check_adapter_name;
use crate::telemetry::LogSettings;

/// What the environment's keys begin with: `EVOTOKEN__SECTION__KEY`.
const PREFIX: &str = "EVOTOKEN";

/// All settings, one struct per concern.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The HTTP side.
    pub server: ServerSettings,
    /// Which model.
    pub model: ModelSettings,
    /// How much runs at once.
    pub engine: EngineSettings,
    /// What a request may ask for.
    pub limits: LimitSettings,
    /// Decoding when a request is silent; goes before the model's own recommendation.
    pub decode: DecodeOptions,
    /// Logs.
    pub log: LogSettings,
}

/// Keep candle's element-wise operations on the thread that asks for them, unless `CANDLE_NUM_THREADS` is set. candle's
/// own pool splits each of them over all cores and spins in between: half of a trainer's processor time, and twice the
/// time of an answer where another process wants a core. Matrix products have another pool. candle has no other way to
/// be told than its environment variable.
///
/// # Safety
/// No other thread may have been started yet.
pub unsafe fn keep_candle_on_its_thread() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: the caller promises that nobody reads the environment at the same time.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
}

/// Settings that cannot be used; `place` is a file, the environment, or the settings as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct SettingsError {
    place: String,
    message: String,
}

impl SettingsError {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

impl Settings {
    /// The settings in force: flags over this process's environment over the settings file over the defaults.
    ///
    /// # Errors
    /// Names the place (file, environment) and the key.
    pub fn load(flags: &Flags) -> Result<Self, SettingsError> {
        let text = match &flags.config {
            Some(path) => {
                let place = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|e| SettingsError::new(&place, e.to_string()))?;
                Some((place, text))
            }
            None => None,
        };
        Self::from_layers(text, environment()?, flags)
    }

    /// As [`Self::load`], from a file's (place, text) and given environment variables.
    ///
    /// # Errors
    /// Names the place (file, environment) and the key.
    pub fn from_layers(
        file: Option<(String, String)>,
        environment: HashMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, SettingsError> {
        let defaults = Config::try_from(&Self::default());
        let defaults = defaults.map_err(|e| SettingsError::new("defaults", e.to_string()))?;
        let mut builder = Config::builder().add_source(defaults);
        let mut settings = Self::default();
        if let Some((place, text)) = file {
            let file = File::from_str(&text, FileFormat::Toml);
            let tables = file.collect().map_err(|e| SettingsError::new(&place, without_source(&e)))?;
            check_keys(&tables).map_err(|message| SettingsError::new(&place, message))?;
            builder = builder.add_source(file);
            settings = read(&builder, &place)?;
        }
        let mut mine: HashMap<_, _> =
            environment.into_iter().filter(|(key, _)| key.starts_with(&format!("{PREFIX}__"))).collect();
        if !mine.is_empty() {
            let place = format!("environment ({PREFIX}__SECTION__KEY)");
            if let Some(key) = mine.keys().find(|key| !plain(key)) {
                return Err(SettingsError::new(place, format!("{key:?} names no setting")));
            }
            // Not left to the parsing of values: a key may look like a number.
            let name = format!("{PREFIX}__SERVER__API_KEYS");
            let name = mine.keys().find(|key| key.eq_ignore_ascii_case(&name)).cloned();
            if let Some(keys) = name.and_then(|name| mine.remove(&name)) {
                let keys: Vec<&str> = keys.split(',').collect();
                let set = builder.set_override("server.api_keys", keys);
                builder = set.map_err(|e| SettingsError::new(&place, e.to_string()))?;
            }
            let source = Environment::with_prefix(PREFIX)
                .prefix_separator("__")
                .separator("__")
                .try_parsing(true)
                .list_separator(",")
                .with_list_parse_key("server.cors_origins")
                .with_list_parse_key("model.served_names")
                .source(Some(mine));
            settings = read(&builder.add_source(source), &place)?;
        }
        check_twice("--adapter", flags.adapter.iter().map(|adapter| &adapter.name))?;
        settings.apply(flags);
        settings.check()?;
        Ok(settings)
    }

    fn apply(&mut self, flags: &Flags) {
        self.server.host = flags.host.unwrap_or(self.server.host);
        self.server.port = flags.port.unwrap_or(self.server.port);
        self.model.weights = flags.weights.unwrap_or(self.model.weights);
        // Each key by itself: a flag for one of them takes nothing away from the others.
        if let Some(device) = &flags.device {
            self.model.device.clone_from(device);
        }
        if let Some(model) = &flags.model {
            self.model.path = Some(model.clone());
        }
        let adapters =
            flags.adapter.iter().map(|NamedFolder { name, folder }| (name.clone(), folder.clone()));
        self.model.adapters.extend(adapters);
        if !flags.served_model_name.is_empty() {
            self.model.served_names.clone_from(&flags.served_model_name);
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        // What is reserved before the first request has an upper bound, too.
        let counts = [
            ("server.max_connections", self.server.max_connections, usize::MAX),
            ("server.max_body_bytes", self.server.max_body_bytes, usize::MAX),
            ("engine.queue", self.engine.queue, 1 << 20),
            ("engine.slots", self.engine.slots, 1 << 16),
            ("engine.kv_bytes", self.engine.kv_bytes.unwrap_or(usize::MAX), usize::MAX),
            ("engine.rows_per_tick", self.engine.rows_per_tick, usize::MAX),
            ("limits.max_prompt_tokens", self.limits.max_prompt_tokens, usize::MAX),
            ("limits.max_new_tokens", self.limits.max_new_tokens, usize::MAX),
            ("limits.max_choices", self.limits.max_choices, usize::MAX),
            ("limits.max_guide_bytes", self.limits.max_guide_bytes, usize::MAX),
            ("limits.max_guide_states", self.limits.max_guide_states, 1 << 15),
            ("limits.max_guide_transitions", self.limits.max_guide_transitions, 1 << 30),
        ];
        if let Some((key, _, _)) = counts.iter().find(|(_, value, _)| *value == 0) {
            return Err(SettingsError::new("settings", format!("{key} must be at least 1")));
        }
        if let Some((key, _, most)) = counts.iter().find(|(_, value, most)| value > most) {
            return Err(SettingsError::new("settings", format!("{key} must be at most {most}")));
        }
        let seconds = [
            ("server.header_timeout_s", self.server.header_timeout_s),
            ("server.write_timeout_s", self.server.write_timeout_s),
            ("server.body_timeout_s", self.server.body_timeout_s),
            ("server.request_timeout_s", self.server.request_timeout_s),
            ("server.drain_timeout_s", self.server.drain_timeout_s),
        ];
        if let Some((key, _)) = seconds.iter().find(|(_, value)| !(1..=86_400).contains(value)) {
            return Err(SettingsError::new("settings", format!("{key} must be between 1 and 86400")));
        }
        if self.server.drain_delay_s > 86_400 {
            return Err(SettingsError::new("settings", "server.drain_delay_s must be at most 86400"));
        }
        if self.server.api_keys.iter().any(str::is_empty) {
            return Err(SettingsError::new("settings", "server.api_keys must not hold an empty key"));
        }
        let names = &self.model.served_names;
        if let Some(name) = names.iter().find(|name| name.trim().is_empty()) {
            let message = format!("model.served_names: {name:?} is no name");
            return Err(SettingsError::new("settings", message));
        }
        check_twice("model.served_names", names)?;
        for name in self.model.adapters.keys() {
            check_adapter_name(name).map_err(|e| {
                SettingsError::new("settings", format!("model.adapters: the name {name:?} {e}"))
            })?;
        }
        let unusable = |origin: &&String| origin.is_empty() || !origin.bytes().all(|b| b.is_ascii_graphic());
        if let Some(origin) = self.server.cors_origins.iter().find(unusable) {
            return Err(SettingsError::new(
                "settings",
                format!("server.cors_origins: {origin:?} is no origin"),
            ));
        }
        self.decode.check().map_err(|e| SettingsError::new("settings", format!("decode.{} {e}", e.field)))
    }

    /// Most choices of a request; the queue could never take more than it has places.
    pub fn max_choices(&self) -> usize {
        self.limits.max_choices.min(self.engine.queue)
    }

    /// The settings as a TOML file, keys hidden, what is not set as a comment.
    pub fn render(&self) -> String {
        let mut shown = self.clone();
        shown.server.api_keys = self.server.api_keys.hidden();
        let value = serde_json::to_value(shown).expect("settings are plain data with string keys");
        let mut text = String::new();
        for (section, keys) in value.as_object().into_iter().flatten() {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys.as_object().into_iter().flatten() {
                // A JSON scalar or list of strings is also TOML.
                let line = match value {
                    serde_json::Value::Null => format!("# {key} =\n"),
                    serde_json::Value::Object(table) => format!("{key} = {}\n", inline(table)),
                    value => format!("{key} = {value}\n"),
                };
                text.push_str(&line);
            }
            text.push('\n');
        }
        text
    }
}

/// A table of scalars in one line of TOML.
fn inline(table: &serde_json::Map<String, serde_json::Value>) -> String {
    let entry = |(key, value): (&String, &serde_json::Value)| format!("{} = {value}", serde_json::json!(key));
    let entries: Vec<String> = table.iter().map(entry).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn check_twice<'a>(place: &str, names: impl IntoIterator<Item = &'a String>) -> Result<(), SettingsError> {
    let mut seen = HashSet::new();
    match names.into_iter().find(|name| !seen.insert(*name)) {
        None => Ok(()),
        Some(name) => Err(SettingsError::new("settings", format!("{place}: {name:?} stands twice"))),
    }
}

fn read(
    builder: &config::ConfigBuilder<config::builder::DefaultState>,
    place: &str,
) -> Result<Settings, SettingsError> {
    let layered = builder.build_cloned().map_err(|e| SettingsError::new(place, e.to_string()))?;
    check_whole(&layered).map_err(|message| SettingsError::new(place, message))?;
    serde_path_to_error::deserialize(layered).map_err(|e| {
        let path = e.path().to_string();
        // The library's sentence would show a key that is in the wrong place.
        let message = match path.starts_with("server.api_keys") {
            true => format!("{path}: must be a list of texts"),
            false => e.to_string(),
        };
        SettingsError::new(place, message)
    })
}

/// The environment, without what is no text and none of ours.
fn environment() -> Result<HashMap<String, String>, SettingsError> {
    let mut texts = HashMap::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(texts.insert(name, value)),
            (Ok(name), Err(_)) if name.starts_with("EVOTOKEN__") => {
                return Err(SettingsError::new("environment", format!("{name} is not valid UTF-8")));
            }
            _ => {}
        }
    }
    Ok(texts)
}

/// The library makes a whole number of any: of `inf` the largest, of `true` one.
fn check_whole(layered: &Config) -> Result<(), String> {
    for section in ["server", "engine", "limits", "decode"] {
        for (key, value) in layered.get_table(section).unwrap_or_default() {
            let others: &[&str] = match section {
                "decode" => &["method", "threshold", "factor", "alpha", "cache", "boundary"],
                _ => &["host", "api_keys", "cors_origins", "playground", "runtime_adapters"],
            };
            let counts = !others.contains(&key.as_str());
            let odd = matches!(value.kind, config::ValueKind::Float(_) | config::ValueKind::Boolean(_));
            if counts && odd {
                return Err(format!("{section}.{key}: must be a whole number"));
            }
        }
    }
    Ok(())
}

/// A name that stands for itself: the library reads others as paths, `a[9]` as a list of ten.
fn plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_keys(table: &config::Map<String, config::Value>) -> Result<(), String> {
    for (key, value) in table {
        if !plain(key) {
            return Err(format!("{key:?} names no setting"));
        }
        if let config::ValueKind::Table(inner) = &value.kind
            // Names of a client's, which the library does not read as paths that far inside.
            && key != "adapters"
        {
            check_keys(inner)?;
        }
    }
    Ok(())
}

/// What is wrong with a file, without the lines that the library quotes: one may hold a key.
fn without_source(error: &config::ConfigError) -> String {
    let text = error.to_string();
    let lines = text.lines().filter(|line| {
        !line.trim_start_matches([' ', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']).starts_with('|')
    });
    lines.collect::<Vec<_>>().join("; ")
}
