//! A checked request: what the engine runs. It cannot exist invalid, and nobody below checks again.

use std::sync::Arc;

use super::ModelInfo;
use super::sampling::{SamplingOptions, SamplingParams};
use super::variant::Variant;
use crate::decode::{Attention, DecodeOptions, DecodeParams, OptionError, ScoringRule};
use crate::guide::{Guide, Room, Track};

/// What a model and the server's settings allow; requests are checked against it.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Rows of the embedding table; token ids lie below.
    pub vocab: usize,
    /// The mask token, refused in prompts.
    pub mask_id: u32,
    /// The end-of-text tokens.
    pub eos_ids: Vec<u32>,
    /// Largest prompt + answer, in tokens.
    pub max_canvas: usize,
    /// Largest prompt, in tokens.
    pub max_prompt_tokens: usize,
    /// Largest answer, in tokens.
    pub max_new_tokens: usize,
    /// Most stop strings of a request.
    pub max_stop_strings: usize,
    /// Longest prompt that is scored, in tokens: each costs a forward pass over the whole prompt.
    pub max_scored_tokens: usize,
}

impl Limits {
    /// What a model allows whose embedding table has `vocab` rows and whose canvas `max_canvas` tokens, and nobody else
    /// forbids. 4 stop strings, as OpenAI has it.
    pub fn of_model(model: &ModelInfo, vocab: usize, max_canvas: usize) -> Self {
        Self {
            vocab,
            mask_id: model.mask_id,
            eos_ids: model.eos_ids.clone(),
            max_canvas,
            max_prompt_tokens: max_canvas,
            max_new_tokens: max_canvas,
            max_stop_strings: 4,
            max_scored_tokens: max_canvas,
        }
    }
}

/// Whether the prompt comes before its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptEcho {
    /// It does not.
    #[default]
    Off,
    /// Its text.
    Text,
    /// Its text, and the scores of its tokens by this rule if the answer's are told, too.
    Scored(ScoringRule),
}

/// What a client asks for, parsed but not yet checked. One per sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// The weights that are to answer.
    pub variant: Variant,
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// Room for the answer, in tokens; 0 only if the prompt comes with it.
    pub max_tokens: usize,
    /// Token ids behind the answer, which fills the gap; empty for none.
    pub suffix: Vec<u32>,
    /// Whether the prompt comes with it.
    pub echo: PromptEcho,
    /// Decoding settings, the client's completed by the server's and the model's.
    pub decode: DecodeOptions,
    /// Noise scale of the guesses; 0 is greedy.
    pub temperature: f64,
    /// What else the client says about the choice of tokens.
    pub sampling: SamplingOptions,
    /// Key of the randomness.
    pub seed: u64,
    /// Which of the request's choices, from 0.
    pub choice: u32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// What the answer has to satisfy.
    pub guide: Option<Guided>,
}

impl Draft {
    /// The request of somebody who says nothing but what is to be answered, and at which length: the model without an
    /// adapter, decoding as it is built in, greedily.
    pub fn new(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            variant: Variant::default(),
            prompt,
            max_tokens,
            suffix: Vec::new(),
            echo: PromptEcho::Off,
            decode: DecodeOptions::default(),
            temperature: 0.0,
            sampling: SamplingOptions::default(),
            seed: 0,
            choice: 0,
            stop: Vec::new(),
            guide: None,
        }
    }
}

/// A rule that an answer has to satisfy.
#[derive(Debug, Clone, PartialEq)]
pub struct Guided {
    /// The rule, for the model's tokens.
    pub guide: Arc<Guide>,
    /// The parameter that asks for it.
    pub param: String,
}

/// One sequence to generate. Made only by [`GenerateRequest::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    variant: Variant,
    prompt: Vec<u32>,
    max_tokens: usize,
    suffix: Vec<u32>,
    echo: PromptEcho,
    decode: DecodeParams,
    temperature: f32,
    sampling: SamplingParams,
    seed: u64,
    choice: u32,
    stop: Vec<String>,
    track: Option<Track>,
}

/// Why a draft is no request. Each names the parameter as a client spells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A value out of range.
    #[error("{message}")]
    Invalid {
        /// Path of the parameter (`"diffusion.steps"`).
        param: String,
        /// What is wrong with it.
        message: String,
    },
    /// Prompt and answer are longer than the model or the server takes.
    #[error("{message}")]
    TooLong {
        /// With the numbers asked for and allowed.
        message: String,
    },
}

impl RequestError {
    /// A value out of range.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }
}

impl From<OptionError> for RequestError {
    fn from(error: OptionError) -> Self {
        Self::invalid(format!("diffusion.{}", error.field), error.message)
    }
}

impl GenerateRequest {
    /// Check a draft against the limits.
    ///
    /// # Errors
    /// The first value out of range, by name; [`RequestError::TooLong`] if prompt and answer do not fit.
    pub fn new(draft: Draft, limits: &Limits) -> Result<Self, RequestError> {
        let Draft {
            variant,
            prompt,
            max_tokens,
            suffix,
            echo,
            decode,
            temperature,
            sampling,
            seed,
            choice,
            stop,
            guide,
        } = draft;
        if prompt.is_empty() {
            return Err(RequestError::invalid("prompt", "must contain at least one token"));
        }
        check_given("prompt", &prompt, limits)?;
        check_given("suffix", &suffix, limits)?;
        if !suffix.is_empty() && variant.attention == Attention::BlockCausal {
            let message = "must be empty: no position of a block-causal model sees what follows its block";
            return Err(RequestError::invalid("suffix", message));
        }
        if max_tokens == 0 && echo == PromptEcho::Off {
            return Err(RequestError::invalid("max_tokens", "must be at least 1"));
        }
        check_lengths(prompt.len() + suffix.len(), max_tokens, limits)?;
        if !(0.0..=2.0).contains(&temperature) {
            return Err(RequestError::invalid("temperature", "must be between 0 and 2"));
        }
        if stop.len() > limits.max_stop_strings {
            let message = format!("{} strings, at most {} are allowed", stop.len(), limits.max_stop_strings);
            return Err(RequestError::invalid("stop", message));
        }
        if stop.iter().any(String::is_empty) {
            return Err(RequestError::invalid("stop", "a stop string must not be empty"));
        }
        let sampling = sampling.resolve(max_tokens, limits)?;
        let scored = matches!(echo, PromptEcho::Scored(_)) && sampling.logprobs.is_some();
        if scored && prompt.len() > limits.max_scored_tokens {
            let (found, most) = (prompt.len(), limits.max_scored_tokens);
            let message = format!("the prompt to score is {found} tokens, at most {most} are allowed");
            return Err(RequestError::TooLong { message });
        }
        let decode = decode.resolve(max_tokens, limits.vocab)?;
        let room =
            Room { tokens: max_tokens, block: decode.block_length, ends_from: sampling.excluded_before };
        let track = guide.map(|guided| guided.track(room)).transpose()?;
        #[expect(clippy::cast_possible_truncation, reason = "a temperature within 0..=2 needs no f64")]
        let temperature = temperature as f32;
        Ok(Self {
            variant,
            prompt,
            max_tokens,
            suffix,
            echo,
            decode,
            temperature,
            sampling,
            seed,
            choice,
            stop,
            track,
        })
    }

    /// The same for another of the client's choices.
    #[must_use]
    pub fn of_choice(self, choice: u32) -> Self {
        Self { choice, ..self }
    }

    /// The weights that answer.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Prompt token ids, at least one, none of them the mask.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// If the prompt is to be scored: by which rule, and how many alternatives per token are told.
    pub fn scores_prompt(&self) -> Option<(ScoringRule, usize)> {
        match (self.echo, self.sampling.logprobs) {
            (PromptEcho::Scored(rule), Some(alternatives)) => Some((rule, alternatives)),
            _ => None,
        }
    }

    /// Room for the answer, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Token ids behind the answer; empty for none, none of them the mask.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// Prompt + answer + suffix, in tokens.
    pub fn canvas(&self) -> usize {
        self.prompt.len() + self.max_tokens + self.suffix.len()
    }

    /// How to decode.
    pub fn decode(&self) -> &DecodeParams {
        &self.decode
    }

    /// Noise scale of the guesses, 0 (greedy) to 2.
    pub fn temperature(&self) -> f32 {
        self.temperature
    }

    /// What is done to the logits, and told of them.
    pub fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    /// Key of the randomness.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Which of the client's choices.
    pub fn choice(&self) -> u32 {
        self.choice
    }

    /// Strings that end the answer.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// What keeps the answer to its rule, if it has one.
    pub fn track(&self) -> Option<&Track> {
        self.track.as_ref()
    }
}

impl Guided {
    /// The rule for an answer of this room.
    fn track(self, room: Room) -> Result<Track, RequestError> {
        let Self { guide, param } = self;
        Track::new(guide, room).map_err(|error| RequestError::invalid(param, error.to_string()))
    }
}

fn check_given(param: &str, ids: &[u32], limits: &Limits) -> Result<(), RequestError> {
    if let Some(id) = ids.iter().find(|id| **id as usize >= limits.vocab) {
        let message = format!("token id {id} is outside the vocabulary of {} tokens", limits.vocab);
        return Err(RequestError::invalid(param, message));
    }
    if ids.contains(&limits.mask_id) {
        let message = format!("must not contain the mask token (id {})", limits.mask_id);
        return Err(RequestError::invalid(param, message));
    }
    Ok(())
}

/// A suffix is part of what is given, as the prompt is.
fn check_lengths(prompt: usize, answer: usize, limits: &Limits) -> Result<(), RequestError> {
    let too_long = |what: &str, found: usize, limit: usize| {
        Err(RequestError::TooLong {
            message: format!("{what} is {found} tokens, at most {limit} are allowed"),
        })
    };
    if prompt > limits.max_prompt_tokens {
        return too_long("the prompt", prompt, limits.max_prompt_tokens);
    }
    if answer > limits.max_new_tokens {
        return too_long("max_tokens", answer, limits.max_new_tokens);
    }
    match prompt.checked_add(answer) {
        Some(canvas) if canvas <= limits.max_canvas => Ok(()),
        _ => too_long("prompt + max_tokens", prompt.saturating_add(answer), limits.max_canvas),
    }
}
