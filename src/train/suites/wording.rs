//! How a question is put to a model.

use serde::{Deserialize, Serialize};

use super::Suite;
use crate::text::chat_template::{ChatTemplate, ChatTemplateError, Message};

/// A way to put questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The question as it is.
    Plain,
    /// The question as a user's message, through the model's chat template.
    Chat,
    /// As `chat`, below the paper's instruction: reasoning first, then the answer in a box.
    Instruct,
}

/// What a prompt is made with.
#[derive(Debug)]
pub enum Wording {
    /// The question as it is.
    Plain,
    /// A user's message.
    Message {
        /// What stands above the question, two newlines before it; may be empty.
        instruction: String,
        /// The model's template.
        template: Box<ChatTemplate>,
    },
}

/// A prompt's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// To be tokenized as a client's text is.
    Text(String),
    /// A chat template's work: it holds its special tokens already.
    Rendered(String),
}

/// The form of an answer that the paper's models are trained on, as an instruction.
pub const FORM: &str = "\nRespond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n\
                    \\boxed{...}\n</answer>\n";
/// What a Countdown question asks for.
const COUNTDOWN: &str = "\nWrite an arithmetic expression whose value is the target. Use each of the given numbers \
                         exactly once, no other number, and only + - * / and parentheses.\nReason first. Then put the \
                         expression alone into \\boxed{}: no equals sign and no target.";

impl Suite {
    /// How its questions are put unless somebody says otherwise: suites that this project generates as they are, the
    /// others with the paper's instruction.
    pub fn usual_style(self) -> Style {
        match self {
            Self::Countdown | Self::Sorting => Style::Plain,
            Self::Gsm8k | Self::Math500 | Self::Svamp => Style::Instruct,
        }
    }

    /// What stands above a question in the style [`Style::Instruct`].
    pub fn instruction(self) -> String {
        match self {
            Self::Countdown => format!("{COUNTDOWN}{FORM}"),
            Self::Sorting | Self::Gsm8k | Self::Math500 | Self::Svamp => FORM.to_owned(),
        }
    }
}

impl Style {
    /// What answers begin with unless somebody says otherwise, as in the paper's evaluation.
    pub fn usual_prefill(self) -> &'static str {
        match self {
            Self::Plain | Self::Chat => "",
            Self::Instruct => "<reasoning>",
        }
    }
}

impl Wording {
    /// The prompt of a question whose answer begins with `prefill`.
    ///
    /// # Errors
    /// The chat template refuses the message or fails.
    pub fn prompt(&self, question: &str, prefill: &str) -> Result<Prompt, ChatTemplateError> {
        match self {
            Self::Plain => Ok(Prompt::Text(format!("{question}{prefill}"))),
            Self::Message { instruction, template } => {
                let above = if instruction.is_empty() { "" } else { "\n\n" };
                let message = Message::user(format!("{instruction}{above}{question}"));
                Ok(Prompt::Rendered(template.render(&[message], true)? + prefill))
            }
        }
    }
}
