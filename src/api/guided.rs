//! What clients say about the form of answers: vLLM's `guided_*` and `structured_outputs`, OpenAI's `response_format`.

use serde::Deserialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::guide::{Json, Rule};
use crate::service::Constraint;

/// vLLM's newer spelling of the `guided_*` parameters. At most one of them in all.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"regex": "[0-9]+"}))]
pub struct StructuredOutputs {
    /// Answer with one of these texts.
    pub choice: Option<Vec<String>>,
    /// Answer with a text that this regular expression matches as a whole.
    pub regex: Option<String>,
    /// Answer with JSON that is valid under this schema, given as an object or as its text.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Json>,
    /// Answer with a JSON object.
    #[schema(default = false)]
    pub json_object: Option<bool>,
    /// Not supported.
    #[schema(ignore)]
    pub grammar: Option<Json>,
    /// Not supported.
    #[schema(ignore)]
    pub structural_tag: Option<Json>,
    /// Not supported.
    #[schema(ignore)]
    pub whitespace_pattern: Option<Json>,
    /// Without effect: there is one way to follow a rule.
    #[schema(ignore)]
    pub disable_fallback: Option<bool>,
    /// Without effect: there is at most one space behind a colon or a comma.
    #[schema(ignore)]
    pub disable_any_whitespace: Option<bool>,
    /// Without effect: no properties are written but those that a schema names.
    #[schema(ignore)]
    pub disable_additional_properties: Option<bool>,
}

/// The form of answers, in OpenAI's spelling.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({"type": "json_object"}))]
pub struct ResponseFormat {
    /// `text` (anything), `json_object` (any JSON object) or `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    pub kind: String,
    /// With `json_schema`: which one.
    pub json_schema: Option<NamedSchema>,
}

/// A JSON schema with a name.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// Without effect.
    pub name: Option<String>,
    /// Without effect.
    pub description: Option<String>,
    /// The schema that answers are valid under.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Json>,
    /// Without effect: answers always follow the schema.
    pub strict: Option<bool>,
}

/// All that a request says about the form of its answers.
#[derive(Debug, Default)]
pub struct Wishes {
    /// `guided_choice`.
    pub choice: Option<Vec<String>>,
    /// `guided_regex`.
    pub regex: Option<String>,
    /// `guided_json`.
    pub json: Option<Json>,
    /// `structured_outputs`.
    pub structured: Option<StructuredOutputs>,
    /// `response_format`.
    pub format: Option<ResponseFormat>,
}

impl Wishes {
    /// The one rule that they amount to, if any.
    ///
    /// # Errors
    /// They contradict each other, or one of them is unusable or not supported.
    pub fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        let structured = self.structured.unwrap_or_default();
        let unsupported = [
            ("grammar", structured.grammar.is_some(), NESTED),
            ("structural_tag", structured.structural_tag.is_some(), "the models served here call no tools"),
            ("whitespace_pattern", structured.whitespace_pattern.is_some(), ONE_WAY),
        ];
        if let Some((name, _, reason)) = unsupported.into_iter().find(|(_, asked, _)| *asked) {
            return Err(ApiError::Unsupported { param: format!("structured_outputs.{name}"), reason });
        }
        let rules = [
            ("guided_choice", self.choice.map(Rule::Choice)),
            ("guided_regex", self.regex.map(Rule::Regex)),
            ("guided_json", schema("guided_json", self.json)?),
            ("structured_outputs.choice", structured.choice.map(Rule::Choice)),
            ("structured_outputs.regex", structured.regex.map(Rule::Regex)),
            ("structured_outputs.json", schema("structured_outputs.json", structured.json)?),
            (
                "structured_outputs.json_object",
                structured.json_object.filter(|on| *on).map(|_| Rule::JsonObject),
            ),
        ];
        let format = self.format.map(ResponseFormat::rule).transpose()?.flatten();
        let asked = rules.into_iter().filter_map(|(param, rule)| Some((param, rule?)));
        let mut asked = asked.chain(format);
        let Some((param, rule)) = asked.next() else { return Ok(None) };
        if let Some((other, _)) = asked.next() {
            return Err(ApiError::invalid(
                other,
                format!("cannot be given beside {param}: answers follow one rule"),
            ));
        }
        Ok(Some(Constraint { param: param.to_owned(), rule }))
    }
}

/// Why grammars are refused.
pub const NESTED: &str =
    "a grammar may nest without end, which no automaton follows; guided_json nests to a bound";

/// Why patterns of white space are refused.
pub const ONE_WAY: &str = "JSON is written in one line, with at most one space behind a colon or a comma";

impl ResponseFormat {
    /// The rule, and what asks for it.
    fn rule(self) -> Result<Option<(&'static str, Rule)>, ApiError> {
        let param = "response_format.json_schema.schema";
        let given = self.json_schema.and_then(|named| named.schema);
        if !matches!(given, None | Some(Json::Null | Json::Object(_))) {
            return Err(ApiError::invalid(param, "must be an object"));
        }
        match self.kind.as_str() {
            "text" => Ok(None),
            "json_object" => Ok(Some(("response_format", Rule::JsonObject))),
            "json_schema" => {
                let given = schema(param, given)?;
                let missing = || ApiError::invalid(param, "must be given");
                given.map(|rule| Some((param, rule))).ok_or_else(missing)
            }
            _ => {
                let message = "must be `text`, `json_object` or `json_schema`";
                Err(ApiError::invalid("response_format.type", message))
            }
        }
    }
}

/// A schema, or its text.
fn schema(param: &str, given: Option<Json>) -> Result<Option<Rule>, ApiError> {
    let parsed = match given {
        Some(Json::Text(text)) => {
            let unusable =
                |error: serde_json::Error| ApiError::invalid(param, format!("is no JSON: {error}"));
            Some(serde_json::from_str(&text).map_err(unusable)?)
        }
        other => other,
    };
    Ok(parsed.map(Rule::Schema))
}
