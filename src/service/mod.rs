//! Between the HTTP layer and the engine: text to requests, blocks to text.

pub mod defaults;
pub mod request;
pub mod sampling;
pub mod scored;
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
pub use sampling::SamplingOptions;
pub use stream::{Echo, TextEvent, TextStream};
pub use tokens::Source;

use crate::decode::DecodeOptions;
use crate::engine::{EngineHandle, SequenceError, SubmitError};
use crate::text::Tokenizer;
use crate::text::chat_template::{ChatTemplate, Ending, Message};
use request::{Draft, GenerateRequest, Limits, PromptEcho, RequestError};

/// Room for an answer when neither the client nor the model says, in tokens: OpenAI's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// The same for a turn of a conversation, where nobody expects to be cut off after 16 tokens. A canvas costs its whole
/// length in every refresh, so it is not simply all that fits.
const DEFAULT_TURN_TOKENS: usize = 256;

/// What a service is made of.
#[derive(Debug)]
pub struct ServiceParts {
    /// What clients call the model.
    pub name: String,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// What requests are checked against.
    pub limits: Limits,
    /// Most choices of one request: prompts times `n`.
    pub max_choices: usize,
    /// From submission to the end of an answer; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Decoding as the server's settings want it.
    pub decode: DecodeOptions,
    /// What the model's makers recommend.
    pub defaults: GenerationDefaults,
    /// Where sequences run.
    pub engine: EngineHandle,
}

/// A loaded model, ready to answer.
#[derive(Debug)]
pub struct Service {
    parts: ServiceParts,
    template: Option<ChatTemplate>,
    created: u64,
}

/// Prompts of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// To be tokenized.
    Texts(Vec<String>),
    /// Tokenized by the client, used as they are.
    Ids(Vec<Vec<u32>>),
    /// One conversation, which the model's template makes a prompt of.
    Chat(Chat),
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The turns so far, at least one.
    pub messages: Vec<Message>,
    /// What the answer begins with.
    pub ending: Ending,
}

/// What a client asks for, with everything it left open as `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
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
        Self { parts, template: None, created: unix_seconds() }
    }

    /// With the model's chat template, if it has one.
    #[must_use]
    pub fn with_chat_template(self, template: Option<ChatTemplate>) -> Self {
        Self { template, ..self }
    }

    /// What clients call the model.
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// When the model was loaded, in Unix seconds.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Tokenize, check and queue a request: all of its sequences or none. Takes CPU time for long prompts.
    ///
    /// # Errors
    /// [`AskError::Request`] names the parameter that is out of range; [`AskError::Submit`] if the engine is full or
    /// stops.
    pub fn answer(&self, ask: Ask) -> Result<Answers, AskError> {
        let (stop, min_tokens) = (ask.stop.clone(), ask.sampling.min_tokens.unwrap_or(0));
        let prompts = (ask.echo != PromptEcho::Off).then(|| (ask.prompts.clone(), ask.choices));
        let (prompt_tokens, requests) = self.requests(ask)?;
        let echoes = prompts.map(|(prompts, choices)| self.echoes(&prompts, choices, &requests));
        let deadline = self.parts.timeout.map(|timeout| Instant::now() + timeout);
        let sequences = self.parts.engine.submit(requests, deadline)?;
        let text = |blocks| {
            TextStream::new(blocks, self.parts.tokenizer.clone(), stop.clone()).of_at_least(min_tokens)
        };
        let streams = sequences.into_iter().map(text);
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
            scored: request.scores_prompt().and_then(|_| request.prompt().first().copied()),
        };
        requests.iter().enumerate().map(one).collect()
    }

    /// Run one short answer, so that the first client does not pay for cold memory.
    ///
    /// # Errors
    /// Why the model cannot answer.
    pub async fn warm_up(&self) -> Result<(), WarmUpError> {
        let token = u32::from(self.parts.limits.mask_id == 0);
        let ask = Ask {
            prompts: Prompts::Ids(vec![vec![token]]),
            choices: 1,
            max_tokens: Some(1),
            suffix: None,
            echo: PromptEcho::Off,
            temperature: None,
            sampling: SamplingOptions::default(),
            seed: None,
            stop: Vec::new(),
            decode: DecodeOptions::default(),
        };
        for stream in &mut self.answer(ask)?.streams {
            while let Some(event) = stream.next().await {
                if let TextEvent::Failed(error) = event {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn requests(&self, ask: Ask) -> Result<(usize, Vec<GenerateRequest>), RequestError> {
        let ServiceParts { limits, defaults, .. } = &self.parts;
        self.check_choices(&ask)?;
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
        // 53 bits, which every client's JSON numbers hold: the seed is told with the answer.
        let seed = ask.seed.unwrap_or_else(|| random() >> 11);
        let mut requests = Vec::with_capacity(prompts.len() * ask.choices);
        for prompt in prompts {
            let room =
                limits.max_canvas.saturating_sub(prompt.len() + suffix.len()).min(limits.max_new_tokens);
            let max_tokens = ask.max_tokens.unwrap_or(usual.min(room).max(1));
            for _ in 0..ask.choices {
                let choice = u32::try_from(requests.len()).expect("max_choices bounds the choices");
                let draft = Draft {
                    prompt: prompt.clone(),
                    max_tokens,
                    suffix: suffix.clone(),
                    echo: ask.echo,
                    decode,
                    temperature,
                    sampling: ask.sampling.clone(),
                    seed,
                    choice,
                    stop: ask.stop.clone(),
                };
                requests.push(GenerateRequest::new(draft, limits)?);
            }
        }
        Ok((prompt_tokens, requests))
    }

    fn check_choices(&self, ask: &Ask) -> Result<(), RequestError> {
        let most = self.parts.max_choices;
        let prompts = match &ask.prompts {
            Prompts::Texts(texts) => texts.len(),
            Prompts::Ids(ids) => ids.len(),
            Prompts::Chat(_) => 1,
        };
        if prompts == 0 {
            return Err(RequestError::invalid("prompt", "must hold at least one prompt"));
        }
        if !(1..=most).contains(&ask.choices) {
            return Err(RequestError::invalid("n", format!("must be between 1 and {most}")));
        }
        let choices = prompts.saturating_mul(ask.choices);
        if choices > most {
            let message = format!(
                "{prompts} prompts with {} answers each are {choices} choices, at most {most} are allowed",
                ask.choices
            );
            return Err(RequestError::invalid("prompt", message));
        }
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        // A tokenizer that adds special tokens would make a prompt of it, but nobody means that.
        if text.is_empty() {
            return Err(RequestError::invalid("prompt", "must not be empty"));
        }
        self.check_bytes("prompt", text)?;
        self.parts.tokenizer.encode(text).map_err(|e| RequestError::invalid("prompt", e.to_string()))
    }

    /// A text in the middle: the tokenizer adds nothing to it.
    fn encode_suffix(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        self.check_bytes("suffix", text)?;
        let ids = self.parts.tokenizer.encode_rendered(text);
        ids.map_err(|error| RequestError::invalid("suffix", error.to_string()))
    }

    fn encode_chat(&self, chat: &Chat) -> Result<Vec<u32>, RequestError> {
        let text = self.render(chat)?;
        self.check_bytes("prompt", &text)?;
        let ids = self.parts.tokenizer.encode_rendered(&text);
        ids.map_err(|error| RequestError::invalid("messages", error.to_string()))
    }

    /// What the model's template makes of a conversation.
    fn render(&self, chat: &Chat) -> Result<String, RequestError> {
        let unusable = |reason: String| RequestError::invalid("messages", reason);
        let Some(template) = &self.template else {
            let name = self.name();
            return Err(unusable(format!(
                "the model {name} has no chat template; /v1/completions needs none"
            )));
        };
        template.render_to(&chat.messages, chat.ending).map_err(|error| unusable(error.to_string()))
    }

    /// Megabytes take seconds to tokenize, only to be refused.
    fn check_bytes(&self, what: &str, text: &str) -> Result<(), RequestError> {
        let limits = &self.parts.limits;
        let tokens = limits.max_prompt_tokens.min(limits.max_canvas);
        if text.len() > tokens.saturating_mul(self.parts.tokenizer.longest_token()) {
            let message =
                format!("the {what} has {} bytes, which is more than {tokens} tokens hold", text.len());
            return Err(RequestError::TooLong { message });
        }
        Ok(())
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
