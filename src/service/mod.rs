//! Between the HTTP layer and the engine: text to requests, blocks to text.

pub mod defaults;
pub mod guides;
mod prompts;
pub mod scored;
pub mod speaker;
pub mod step;
pub mod stop;
pub mod stream;
mod tokens;

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, stream as streams};
use tokio_stream::StreamMap;

pub use defaults::GenerationDefaults;
pub use guides::{Constraint, Guides};
pub use prompts::{Chat, Prompts};
pub use speaker::{AdapterError, Speaker};
pub use step::StepText;
pub use stream::{Echo, TextEvent, TextStream};
pub use tokens::Source;

use crate::decode::{Attention, DecodeOptions, ScoringRule};
use crate::engine::request::{Draft, GenerateRequest, Limits, PromptEcho, RequestError};
use crate::engine::sampling::SamplingOptions;
use crate::engine::{BlockEvent, EngineHandle, Reader, SequenceError, SubmitError};
use crate::model::adapters::AdapterLoader;
use crate::text::chat_template::ChatTemplate;
use crate::text::{Tokenizer, TokenizerConfig};

/// Room for an answer when neither the client nor the model says, in tokens: OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// The same for a turn of a conversation, where nobody expects to be cut off after 16 tokens. A canvas costs its whole
/// length in every refresh, so it is not simply all that fits.
const DEFAULT_TURN_TOKENS: usize = 256;

/// What a service is made of.
#[derive(Debug)]
pub struct ServiceParts {
    /// What clients may call the model, at least one name; answers carry the first.
    pub names: Vec<String>,
    /// What the model calls itself.
    pub root: String,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// What requests are checked against.
    pub limits: Limits,
    /// Which positions of the model see which, where its adapters say nothing else.
    pub attention: Attention,
    /// Bring adapters into the engines' backends, one for each.
    pub adapter_loaders: Vec<Arc<dyn AdapterLoader>>,
    /// Most choices of one request: prompts times `n`.
    pub max_choices: usize,
    /// From submission to the end of an answer; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Decoding as the server's settings want it.
    pub decode: DecodeOptions,
    /// What the model's makers recommend.
    pub defaults: GenerationDefaults,
    /// Rules that answers follow.
    pub guides: Guides,
    /// Where sequences run.
    pub engine: EngineHandle,
}

/// A loaded model, ready to answer.
#[derive(Debug)]
pub struct Service {
    parts: ServiceParts,
    adapters: speaker::Adapters,
    template: Option<ChatTemplate>,
    tokenizer_config: TokenizerConfig,
    created: u64,
}

/// What a client asks for, with everything it left open as `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Who is to answer.
    pub speaker: Speaker,
    /// At least one.
    pub prompts: Prompts,
    /// Answers per prompt.
    pub choices: usize,
    /// Room for each answer, in tokens.
    pub max_tokens: Option<usize>,
    /// A text that follows: the answer fills the gap before it.
    pub suffix: Option<String>,
    /// Whether the prompt comes before each answer.
    pub echo: PromptEcho,
    /// Noise scale of the guesses, 0 to 2.
    pub temperature: Option<f64>,
    /// What else is said about the choice of tokens.
    pub sampling: SamplingOptions,
    /// Key of the randomness; all choices share it and differ by their index.
    pub seed: Option<u64>,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Decoding settings.
    pub decode: DecodeOptions,
    /// A rule that the answers have to satisfy.
    pub guide: Option<Constraint>,
}

impl Ask {
    /// One answer to each prompt, by a client that says nothing else.
    pub fn new(speaker: Speaker, prompts: Prompts) -> Self {
        Self {
            speaker,
            prompts,
            choices: 1,
            max_tokens: None,
            suffix: None,
            echo: PromptEcho::Off,
            temperature: None,
            sampling: SamplingOptions::default(),
            seed: None,
            stop: Vec::new(),
            decode: DecodeOptions::default(),
            guide: None,
        }
    }
}

/// Answers on their way.
#[derive(Debug)]
pub struct Answers {
    /// Tokens of all prompts, each counted once.
    pub prompt_tokens: usize,
    /// Prompt by prompt, choice by choice.
    pub streams: Vec<TextStream>,
}

/// The events of several answers as they come, with the answers' numbers. Dropping them cancels the answers.
pub type Events = StreamMap<usize, Pin<Box<dyn Stream<Item = TextEvent> + Send>>>;

impl Answers {
    /// Read all answers at once.
    pub fn into_events(self) -> Events {
        let read = |mut text: TextStream| async move { Some((text.next().await?, text)) };
        let boxed =
            |text| -> Pin<Box<dyn Stream<Item = TextEvent> + Send>> { Box::pin(streams::unfold(text, read)) };
        self.streams.into_iter().map(boxed).enumerate().collect()
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The client's fault.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The engine did not take it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl Service {
    /// Put a service together.
    pub fn new(parts: ServiceParts) -> Self {
        let tokenizer_config = TokenizerConfig::default();
        let (adapters, created) = (speaker::Adapters::default(), unix_seconds());
        Self { parts, adapters, template: None, tokenizer_config, created }
    }

    /// With the model's chat template, if it has one, and with what else it says of its tokenizer.
    #[must_use]
    pub fn with_texts(self, template: Option<ChatTemplate>, config: TokenizerConfig) -> Self {
        let Limits { mask_id, eos_ids, .. } = &self.parts.limits;
        let (ids, tokenizer) = ((eos_ids.first().copied(), *mask_id), &self.parts.tokenizer);
        let tokenizer_config = config.completed(template.as_ref(), tokenizer, ids, self.max_tokens());
        Self { template, tokenizer_config, ..self }
    }

    /// What the model says of its tokenizer.
    pub fn tokenizer_config(&self) -> &TokenizerConfig {
        &self.tokenizer_config
    }

    /// What the model is called in answers: the first of its names.
    pub fn name(&self) -> &str {
        self.parts.names.first().map_or(&self.parts.root, |name| name)
    }

    /// What clients may call the model.
    pub fn names(&self) -> &[String] {
        &self.parts.names
    }

    /// Tokenize, check and queue a request: all of its sequences or none. Takes CPU time for long prompts.
    ///
    /// # Errors
    /// [`AskError::Request`] names the parameter that is out of range; [`AskError::Submit`] if the engine is full or
    /// stops.
    pub fn answer(&self, ask: Ask) -> Result<Answers, AskError> {
        let (stop, min_tokens) = (ask.stop.clone(), ask.sampling.min_tokens.unwrap_or(0));
        let prompts = (ask.echo != PromptEcho::Off).then(|| (ask.prompts.clone(), ask.choices));
        // A rule is about the answer as a text of its own.
        let goes_on = ask.prompts.go_on() && ask.guide.is_none();
        let (prompt_tokens, requests) = self.requests(ask)?;
        let echoes = prompts.map(|(prompts, choices)| self.echoes(&prompts, choices, &requests));
        let tokenizer = &self.parts.tokenizer;
        let last = |request: &GenerateRequest| tokenizer.last_word(request.prompt()).filter(|_| goes_on);
        let before: Vec<Option<u32>> = requests.iter().map(last).collect();
        let deadline = self.parts.timeout.map(|timeout| Instant::now() + timeout);
        let sequences = self.parts.engine.submit(requests, deadline)?;
        let text = |blocks| TextStream::new(blocks, tokenizer.clone(), stop.clone()).of_at_least(min_tokens);
        let streams = std::iter::zip(sequences, before).map(|(blocks, last)| text(blocks).behind(last));
        let streams = match echoes {
            None => streams.collect(),
            Some(echoes) => std::iter::zip(streams, echoes).map(|(text, echo)| text.echoing(echo)).collect(),
        };
        Ok(Answers { prompt_tokens, streams })
    }

    /// The prompts of requests as they are repeated: a text as it came, token ids without special tokens.
    fn echoes(&self, prompts: &Prompts, choices: usize, requests: &[GenerateRequest]) -> Vec<Echo> {
        let one = |(number, request): (usize, &GenerateRequest)| Echo {
            text: match prompts {
                Prompts::Texts(texts) => texts[number / choices].clone(),
                Prompts::Ids(_) | Prompts::Chat(_) => self.parts.tokenizer.decode(request.prompt()),
            },
            scores: request.scores_prompt().map(|(rule, _)| match rule {
                ScoringRule::Chain => request.prompt().first().copied(),
                ScoringRule::Pseudo => None,
            }),
        };
        requests.iter().enumerate().map(one).collect()
    }

    /// Run one short answer on each engine, so that the first clients do not pay for cold memory.
    ///
    /// # Errors
    /// Why the model cannot answer.
    pub async fn warm_up(&self) -> Result<(), WarmUpError> {
        let token = u32::from(self.parts.limits.mask_id == 0);
        let prompts = Prompts::Ids(vec![vec![token]]);
        let ask = Ask { max_tokens: Some(1), ..Ask::new(self.base(), prompts) };
        let (_, requests) = self.requests(ask).map_err(AskError::from)?;
        let each = |request| self.parts.engine.submit_to_each(request);
        let readers: Vec<Vec<Reader>> =
            requests.iter().map(each).collect::<Result<_, _>>().map_err(AskError::from)?;
        for mut reader in readers.into_iter().flatten() {
            while let Some(event) = reader.recv().await {
                if let BlockEvent::Failed(error) = event {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn requests(&self, ask: Ask) -> Result<(usize, Vec<GenerateRequest>), RequestError> {
        let limits = &self.parts.limits;
        self.check_choices(&ask)?;
        let Speaker { variant, defaults, .. } = ask.speaker;
        let usual = defaults.max_new_tokens.unwrap_or(match ask.prompts {
            Prompts::Chat(_) => DEFAULT_TURN_TOKENS,
            Prompts::Texts(_) | Prompts::Ids(_) => DEFAULT_MAX_TOKENS,
        });
        let prompts = match ask.prompts {
            Prompts::Chat(chat) => vec![self.encode_chat(&chat)?],
            Prompts::Texts(texts) => texts.iter().map(|text| self.encode(text)).collect::<Result<_, _>>()?,
            Prompts::Ids(ids) => ids,
        };
        let suffix = ask.suffix.as_deref().map_or_else(|| Ok(Vec::new()), |text| self.encode_suffix(text))?;
        let prompt_tokens = prompts.iter().map(|prompt| prompt.len() + suffix.len()).sum();
        let decode = ask.decode.or(self.parts.decode).or(defaults.decode);
        let temperature = ask.temperature.or(defaults.temperature).unwrap_or(0.0);
        let sampling = SamplingOptions {
            top_p: ask.sampling.top_p.or(defaults.top_p),
            top_k: ask.sampling.top_k.or(defaults.top_k),
            min_p: ask.sampling.min_p.or(defaults.min_p),
            ..ask.sampling
        };
        // 53 bits, which every client's JSON numbers hold: the seed is told with the answer.
        let seed = ask.seed.unwrap_or_else(|| random() >> 11);
        let guide = ask.guide.map(|constraint| self.guide(constraint)).transpose()?;
        let mut requests = Vec::with_capacity(prompts.len() * ask.choices);
        for prompt in prompts {
            let room =
                limits.max_canvas.saturating_sub(prompt.len() + suffix.len()).min(limits.max_new_tokens);
            let max_tokens = ask.max_tokens.unwrap_or(usual.min(room).max(1));
            let draft = Draft {
                variant: variant.clone(),
                prompt,
                max_tokens,
                suffix: suffix.clone(),
                echo: ask.echo,
                decode,
                temperature,
                sampling: sampling.clone(),
                seed,
                choice: 0,
                stop: ask.stop.clone(),
                guide: guide.clone(),
            };
            let request = GenerateRequest::new(draft, limits)?;
            for _ in 0..ask.choices {
                let choice = u32::try_from(requests.len()).expect("max_choices bounds the choices");
                requests.push(request.clone().of_choice(choice));
            }
        }
        Ok((prompt_tokens, requests))
    }
}

/// Why the model could not answer its first request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarmUpError {
    /// It was not taken.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It failed.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// Now.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// A number nobody can foresee, from the seeds of the standard library's hash maps.
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}
