//! A model behind the serving engine, in this process.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::grid::Setting;
use crate::backend::CandleBackend;
use crate::backend::device::DeviceChoice;
use crate::engine::request::Limits;
use crate::engine::{self, EngineLimits, FinishReason, ModelInfo, Progress};
use crate::guide::GuideLimits;
use crate::model::marker::Marker;
use crate::model::{ModelConfig, ModelSource};
use crate::service::{
    Ask, GenerationDefaults, Guides, Prompts, Service, ServiceParts, Speaker, TextEvent, TextStream,
};
use crate::telemetry::Metrics;
use crate::text::Tokenizer;
use crate::train::network::Weights;
use crate::train::suites::wording::Prompt;

/// What the one adapter is called here.
const ADAPTER: &str = "adapter";

/// A model that answers as the server does: the same request checks, engine, packed batches and text decoding.
#[derive(Debug)]
pub struct Served {
    service: Service,
    tokenizer: Arc<Tokenizer>,
    speaker: Speaker,
    config: ModelConfig,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its text, without end-of-text.
    pub text: String,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub progress: Progress,
}

impl Served {
    /// Load a model, with a PEFT adapter folder beside it if one is given; at most `in_flight` answers run at once.
    ///
    /// # Errors
    /// Names the file or tensor that is missing or unusable.
    pub fn load(source: &ModelSource, adapter: Option<&ModelSource>, in_flight: usize) -> Result<Self> {
        let open = || -> Result<Self> {
            let backend = CandleBackend::load_to_serve(source, DeviceChoice::Auto, None)?;
            let makers = (GenerationDefaults::load(source)?, Marker::load(source)?);
            Self::start(backend, Arc::new(Tokenizer::load(source)?), makers, in_flight)
        };
        let served = open().with_context(|| source.place())?;
        let Some(adapter) = adapter else { return Ok(served) };
        served.service.load_adapter(ADAPTER, adapter)?;
        let speaker = served.service.speaker(Some(ADAPTER)).context("an adapter that was loaded is there")?;
        Ok(Self { speaker, ..served })
    }

    /// A network as it is in the middle of training; at most `in_flight` answers run at once.
    ///
    /// # Errors
    /// The weights do not fit the network.
    pub fn of_weights(
        config: &ModelConfig,
        weights: &Weights,
        tokenizer: Arc<Tokenizer>,
        in_flight: usize,
    ) -> Result<Self> {
        let backend = CandleBackend::from_tensors(config.clone(), weights, DeviceChoice::Cpu)?;
        Self::start(backend, tokenizer, <(GenerationDefaults, Marker)>::default(), in_flight)
    }

    fn start(
        backend: CandleBackend,
        tokenizer: Arc<Tokenizer>,
        (defaults, marker): (GenerationDefaults, Marker),
        in_flight: usize,
    ) -> Result<Self> {
        let (config, adapter_loader) = (backend.config().clone(), backend.adapter_loader());
        let eos_ids = defaults.eos_ids.clone().unwrap_or_else(|| config.eos_ids.clone());
        let info = ModelInfo { mask_id: config.mask_id, eos_ids };
        let limits = Limits::of_model(&info, config.vocab, config.max_positions);
        let bounds = EngineLimits {
            queue: usize::MAX,
            slots: in_flight,
            kv_bytes: backend.kv_budget(None),
            prefix_cache_bytes: 0,
            // Answers are read one after the other: the last must have room for all its blocks until then.
            event_buffer: config.max_positions + 3,
            ..EngineLimits::default()
        };
        let engine = engine::start(backend, info, bounds, Arc::new(Metrics::new()))
            .context("the engine thread cannot be started")?;
        let service = Service::new(ServiceParts {
            names: Vec::new(),
            root: String::new(),
            tokenizer: tokenizer.clone(),
            limits,
            attention: marker.attention.unwrap_or_default(),
            adapter_loaders: vec![adapter_loader],
            max_choices: 1,
            timeout: None,
            decode: crate::decode::DecodeOptions::default(),
            defaults,
            // Questions of suites come without rules.
            guides: Guides::new(GuideLimits { max_bytes: 0, max_states: 0, max_transitions: 0 }, 0),
            engine,
        });
        let speaker = service.base();
        Ok(Self { service, tokenizer, speaker, config })
    }

    /// What the makers of the model, or of its adapter, recommend.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.speaker.defaults
    }

    /// Sizes and constants of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Queue a prompt; number `index` of its setting, which keys its randomness. Answers run as slots become free.
    ///
    /// # Errors
    /// The prompt or the setting is out of range, or the engine has ended.
    pub fn ask(&self, prompt: Prompt, setting: &Setting, index: u64) -> Result<TextStream> {
        let prompts = match prompt {
            Prompt::Text(text) => Prompts::Texts(vec![text]),
            Prompt::Rendered(text) => Prompts::Ids(vec![self.tokenizer.encode_rendered(&text)?]),
        };
        let ask = Ask {
            max_tokens: Some(setting.max_tokens),
            temperature: Some(setting.temperature),
            seed: Some(setting.seed.wrapping_add(index)),
            decode: setting.decode,
            ..Ask::new(self.speaker.clone(), prompts)
        };
        self.service.answer(ask)?.streams.pop().context("the service gave no answer")
    }
}

/// Wait for an answer.
///
/// # Errors
/// The model failed on it.
pub fn wait(mut stream: TextStream) -> Result<Answer> {
    let mut answer = String::new();
    while let Some(event) = stream.blocking_next() {
        match event {
            TextEvent::Admitted | TextEvent::Step(_) => {}
            TextEvent::Block { text, .. } => answer.push_str(&text),
            TextEvent::Finished { text, reason, progress, .. } => {
                answer.push_str(&text);
                return Ok(Answer { text: answer, reason, progress });
            }
            TextEvent::Failed(error) => return Err(error.into()),
        }
    }
    anyhow::bail!("the answer has no end")
}
