//! A model's own chat template: messages to the text the model was trained on.
//!
//! Templates are Jinja, written for Hugging Face's `apply_chat_template`, whose conventions hold here: blocks are trimmed,
//! strings have Python's methods, `tojson` writes as Python's `json.dumps` does (nothing is escaped for HTML), and a
//! template may call `raise_exception(text)` and `strftime_now(format)`. The variables are `messages`,
//! `add_generation_prompt`, the model's special tokens by their names (`bos_token`, …), and `tools` and `documents`,
//! which are none.

use std::io::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, context, escape_formatter};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use crate::model::{ModelError, ModelSource};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".to_owned(), content: content.into() }
    }
}

/// How the text of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With the beginning of the model's next turn.
    NextTurn,
    /// Behind the last message.
    Closed,
    /// Within the last message, at its end: whatever the template puts behind a message is left out.
    Open,
}

/// Why messages could not be turned into a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The model has no template.
    #[error(
        "{0} has no chat template (chat_template.jinja, or chat_template in chat_template.json or tokenizer_config.json)"
    )]
    Missing(String),
    /// The template is not one.
    #[error("{file}: the chat template cannot be used: {reason}")]
    Unusable {
        /// Where the template stands.
        file: &'static str,
        /// What is wrong with it, with the line.
        reason: String,
    },
    /// The template does not accept these messages: what it says about them.
    #[error("the chat template refuses the messages: {0}")]
    Refused(String),
    /// The template does not show the last message, which was to be continued.
    #[error("the chat template leaves out the last message, so it cannot be continued")]
    LastLeftOut,
    /// The template failed.
    #[error("the chat template failed: {0}")]
    Failed(String),
    /// A file of the model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A parsed chat template with the special tokens of its model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

/// The template's name within its environment; it has no extension, so nothing is escaped.
const NAME: &str = "chat_template";
const FILE: &str = "chat_template.jinja";
const JSON: &str = "chat_template.json";
const CONFIG: &str = "tokenizer_config.json";

/// Put behind a message to find its end in the text; of private characters, which no template changes. The space tells
/// whether the template trims what it shows.
const MARK: &str = "\u{F8FE}\u{F8FF} ";

/// What a template passed to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Load the template of a model: `chat_template.jinja`, else `chat_template` of `chat_template.json`, else that of
    /// `tokenizer_config.json`, which is a text or a list of named ones, of which the one called `default` is taken.
    ///
    /// # Errors
    /// The model has none, or it cannot be read or parsed.
    pub fn load(source: &ModelSource) -> Result<Self, ChatTemplateError> {
        let json = |file| match source.read(file)? {
            Some(text) => serde_json::from_slice(&text).map_err(|e| unusable(file, e)),
            None => Ok(serde_json::Value::Null),
        };
        let config = json(CONFIG)?;
        let field =
            |value: &serde_json::Value| value.get("chat_template").filter(|found| !found.is_null()).cloned();
        let (file, text) = match source.read(FILE)? {
            Some(text) => (FILE, String::from_utf8(text.into_owned()).map_err(|e| unusable(FILE, e))?),
            None => match (field(&json(JSON)?), field(&config)) {
                (Some(found), _) => (JSON, default_of(&found, JSON)?),
                (None, Some(found)) => (CONFIG, default_of(&found, CONFIG)?),
                (None, None) => return Err(ChatTemplateError::Missing(source.place())),
            },
        };
        Self::new(text, special_tokens(&config)).map_err(|e| unusable(file, e))
    }

    /// As [`Self::load`], for a model that may have none.
    ///
    /// # Errors
    /// The template cannot be read or parsed.
    pub fn find(source: &ModelSource) -> Result<Option<Self>, ChatTemplateError> {
        match Self::load(source) {
            Err(ChatTemplateError::Missing(_)) => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    fn new(text: String, tokens: Vec<(String, String)>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_formatter(print);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", strftime_now);
        for (name, token) in tokens {
            environment.add_global(name, token);
        }
        environment.add_template_owned(NAME, text)?;
        Ok(Self { environment })
    }

    /// The template as the model's makers wrote it.
    pub fn source(&self) -> String {
        let template = self.environment.get_template(NAME).expect("the constructor added it");
        template.source().to_owned()
    }

    /// The text of a conversation; `add_generation_prompt` asks for the beginning of the model's next turn at its end.
    /// It holds the special tokens already: tokenize it without adding any.
    ///
    /// # Errors
    /// The template refuses the messages or fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatTemplateError> {
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template(NAME).expect("the constructor added it");
        template.render(variables).map_err(|error| refusal(&error))
    }

    /// As [`Self::render`], with the wanted ending.
    ///
    /// # Errors
    /// The template refuses the messages, fails, or does not show the message to be continued.
    pub fn render_to(&self, messages: &[Message], ending: Ending) -> Result<String, ChatTemplateError> {
        if ending != Ending::Open {
            return self.render(messages, ending == Ending::NextTurn);
        }
        let mut marked = messages.to_vec();
        if let Some(last) = marked.last_mut() {
            last.content.push_str(MARK);
        }
        let mut text = self.render(&marked, false)?;
        let end = text.rfind(MARK.trim_end()).ok_or(ChatTemplateError::LastLeftOut)?;
        let trims = !text[end..].starts_with(MARK);
        text.truncate(end);
        if trims {
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }
}

fn unusable(file: &'static str, reason: impl ToString) -> ChatTemplateError {
    ChatTemplateError::Unusable { file, reason: reason.to_string() }
}

/// An error of the engine is the template's own if `raise_exception` is at the bottom of it.
fn refusal(error: &Error) -> ChatTemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(link) = cause {
        if let Some(Raised(text)) = link.downcast_ref() {
            return ChatTemplateError::Refused(text.clone());
        }
        cause = link.source();
    }
    ChatTemplateError::Failed(error.to_string())
}

/// The text of `chat_template`, or of its part called `default`.
fn default_of(found: &serde_json::Value, file: &'static str) -> Result<String, ChatTemplateError> {
    let text = |value: Option<&serde_json::Value>| value?.as_str().map(str::to_owned);
    let named = || {
        let default = |part: &&serde_json::Value| text(part.get("name")).as_deref() == Some("default");
        text(found.as_array()?.iter().find(default)?.get("template"))
    };
    text(Some(found)).or_else(named).ok_or_else(|| {
        unusable(file, "chat_template must be a text or a list of which one is named `default`")
    })
}

/// Every `…_token` of a tokenizer's configuration: a text, or an object with the text as its `content`.
fn special_tokens(config: &serde_json::Value) -> Vec<(String, String)> {
    let token = |(name, value): (&String, &serde_json::Value)| {
        let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
        name.ends_with("_token").then(|| (name.clone(), text.to_owned()))
    };
    config.as_object().into_iter().flatten().filter_map(token).collect()
}

/// Print a value as Python does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let python = match value.kind() {
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        ValueKind::None => "None",
        _ => return escape_formatter(out, state, value),
    };
    Ok(out.write_str(python)?)
}

fn raise(text: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(text)))
}

/// The time now in C's `strftime` format, in UTC: an answer must not depend on where the server stands.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, jiff::Timestamp::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Deepest indentation that `tojson` writes per level: a template must not ask for gigabytes of spaces.
const MOST_INDENT: usize = 64;

/// `tojson`, with `indent` as its only option; `ensure_ascii=false` is what it does anyway.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson writes no ASCII escapes"));
    }
    options.assert_all_used()?;
    if indent.is_some_and(|width| width > MOST_INDENT) {
        let message = format!("tojson indents by at most {MOST_INDENT}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let style = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, style))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    let failed = |e: String| Error::new(ErrorKind::InvalidOperation, e);
    written.map_err(|e| failed(e.to_string()))?;
    String::from_utf8(out).map_err(|e| failed(e.to_string()))
}
