//! The sections of the settings, each with its defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::device::{Devices, Placement};
use crate::decode::Attention;
use crate::engine::{self, EngineLimits};
use crate::guide::GuideLimits;
use crate::model::product::Holding;
use crate::service::Guides;

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Keys of which a client must send one; empty: none is asked for.
    pub api_keys: ApiKeys,
    /// Web origins that may call from a browser (`*`: all); empty: no CORS headers.
    pub cors_origins: Vec<String>,
    /// Whether `/` is a page on which to try the model.
    pub playground: bool,
    /// Most connections at once; further clients wait.
    pub max_connections: usize,
    /// Time for a request's headers to arrive, and for a kept connection to idle, in seconds.
    pub header_timeout_s: u64,
    /// Time that a client may take none of its reply, in seconds.
    pub write_timeout_s: u64,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Time for a request body to arrive, in seconds.
    pub body_timeout_s: u64,
    /// Time from a request's arrival to the end of its answer, in seconds.
    pub request_timeout_s: u64,
    /// Time at shutdown in which `/ready` says no and requests are still taken, in seconds.
    pub drain_delay_s: u64,
    /// Time that running answers get at shutdown, in seconds.
    pub drain_timeout_s: u64,
    /// Whether clients may load and unload adapters.
    pub runtime_adapters: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 8000,
            api_keys: ApiKeys::default(),
            cors_origins: Vec::new(),
            playground: true,
            // Linux gives a process 1024 open files unless told otherwise.
            max_connections: 512,
            // Above the 60 s for which proxies keep a connection, so that they close it and not we under a request.
            header_timeout_s: 75,
            write_timeout_s: 60,
            max_body_bytes: 4 << 20,
            body_timeout_s: 30,
            request_timeout_s: 600,
            drain_delay_s: 0,
            drain_timeout_s: 30,
            runtime_adapters: false,
        }
    }
}

impl ServerSettings {
    /// Time for a request body to arrive.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }

    /// Time from a request's arrival to the end of its answer.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }

    /// Time at shutdown in which `/ready` says no and requests are still taken.
    pub fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_s)
    }

    /// Time that running answers get at shutdown.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.drain_timeout_s)
    }
}

/// API keys; they show up in no log and no debug output.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// These keys.
    pub fn new(keys: Vec<String>) -> Self {
        Self(keys)
    }

    /// Whether no key is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys in clear.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// As many keys, all unreadable.
    pub(super) fn hidden(&self) -> Self {
        Self(vec!["(hidden)".to_owned(); self.0.len()])
    }
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} hidden keys", self.0.len())
    }
}

/// `[model]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Folder in Hugging Face's layout, GGUF file, or name on a hub; `None`: the model compiled into the program.
    pub path: Option<PathBuf>,
    /// PEFT LoRA folders, by the names that clients may call them.
    pub adapters: BTreeMap<String, PathBuf>,
    /// What clients may call the model; answers carry the first. Empty: its folder's name.
    pub served_names: Vec<String>,
    /// Which positions see which; `None`: as the folder's `evotoken.json` says, else all see all.
    pub attention: Option<Attention>,
    /// Where it runs: on each of these.
    pub device: Devices,
    /// In which format its weight matrices are held.
    pub weights: Holding,
}

impl ModelSettings {
    /// Where the weights are, and in which format, for each engine.
    pub fn placements(&self) -> impl Iterator<Item = Placement> {
        let holding = self.weights;
        self.device.iter().map(move |device| Placement { device, holding })
    }
}

/// `[engine]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Most sequences waiting for a slot.
    pub queue: usize,
    /// Most sequences running on each device.
    pub slots: usize,
    /// Most bytes of K/V memory in use on each device; `None`: 4 GiB, and on a GPU what the weights leave free.
    pub kv_bytes: Option<usize>,
    /// Most bytes of finished prefixes kept for other sequences of a block-causal model; 0: none.
    pub prefix_cache_bytes: usize,
    /// Packed rows a tick aims at.
    pub rows_per_tick: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let EngineLimits { queue, slots, prefix_cache_bytes, rows_per_tick, .. } = EngineLimits::default();
        Self { queue, slots, kv_bytes: None, prefix_cache_bytes, rows_per_tick }
    }
}

impl From<&EngineSettings> for EngineLimits {
    fn from(settings: &EngineSettings) -> Self {
        let EngineSettings { queue, slots, kv_bytes, prefix_cache_bytes, rows_per_tick } = *settings;
        let kv_bytes = kv_bytes.unwrap_or(engine::KV_BYTES);
        Self { queue, slots, kv_bytes, prefix_cache_bytes, rows_per_tick, ..Self::default() }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Largest prompt, in tokens.
    pub max_prompt_tokens: usize,
    /// Largest answer, in tokens.
    pub max_new_tokens: usize,
    /// Most stop strings of a request.
    pub max_stop_strings: usize,
    /// Longest prompt that is scored (`echo` with `logprobs`), in tokens.
    pub max_scored_tokens: usize,
    /// Most choices of a request: prompts times `n`.
    pub max_choices: usize,
    /// Longest rule that answers follow (`guided_regex` and the like), in bytes.
    pub max_guide_bytes: usize,
    /// Most states of the automaton of such a rule.
    pub max_guide_states: usize,
    /// Most transitions of that automaton by the model's tokens.
    pub max_guide_transitions: usize,
    /// Automata kept for the next request.
    pub cached_guides: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_prompt_tokens: 16_384,
            max_new_tokens: 8_192,
            max_stop_strings: 4,
            max_scored_tokens: 2_048,
            max_choices: 64,
            max_guide_bytes: 65_536,
            max_guide_states: 8_192,
            max_guide_transitions: 1_000_000,
            cached_guides: 32,
        }
    }
}

impl LimitSettings {
    /// The rules that answers follow, none of them known yet.
    pub fn guides(&self) -> Guides {
        let limits = GuideLimits {
            max_bytes: self.max_guide_bytes,
            max_states: self.max_guide_states,
            max_transitions: self.max_guide_transitions,
        };
        Guides::new(limits, self.cached_guides)
    }
}
