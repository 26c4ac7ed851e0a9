//! Strings, numbers, truth values.

use regex_syntax::hir::Hir;

use super::{Schema, integer};
use crate::guide::GuideError;
use crate::guide::json::Json;
use crate::guide::pattern::{PLAIN, class, literal, optional, parse, repeated};

/// What is known about strings.
pub(super) const STRING_KEYWORDS: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];
/// What is known about numbers.
pub(super) const NUMBER_KEYWORDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];

/// The formats of strings that are known, as expressions.
const FORMATS: [(&str, &str); 6] = [
    ("date", DATE),
    ("time", TIME),
    ("date-time", ""),
    ("uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    (
        "ipv4",
        r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])",
    ),
    ("email", r"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*\.[A-Za-z]{2,}"),
];

/// Days that every year has.
const DATE: &str = "[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)";
const TIME: &str =
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";

pub(super) fn boolean() -> Hir {
    Hir::alternation(vec![literal("true"), literal("false")])
}

/// Strings of so many characters, control characters written as their short escapes only.
pub(super) fn string(min: u32, max: Option<u32>) -> Hir {
    let escapes = ['"', '\\', 'b', 'f', 'n', 'r', 't'].map(|escape| (escape, escape));
    let escaped = Hir::concat(vec![literal("\\"), class(&escapes)]);
    quoted(repeated(Hir::alternation(vec![class(&PLAIN), escaped]), min, max))
}

fn quoted(content: Hir) -> Hir {
    Hir::concat(vec![literal("\""), content, literal("\"")])
}

fn digits(min: u32, max: Option<u32>) -> Hir {
    repeated(class(&[('0', '9')]), min, max)
}

/// Numbers; exponents have up to two digits, so that readers which know `f64` can read them.
pub(super) fn number(negative: bool) -> Hir {
    let whole =
        Hir::alternation(vec![literal("0"), Hir::concat(vec![class(&[('1', '9')]), digits(0, None)])]);
    let fraction = optional(Hir::concat(vec![literal("."), digits(1, None)]));
    let power = vec![
        class(&[('E', 'E'), ('e', 'e')]),
        optional(class(&[('+', '+'), ('-', '-')])),
        digits(1, Some(2)),
    ];
    let minus = if negative { optional(literal("-")) } else { Hir::empty() };
    Hir::concat(vec![minus, whole, fraction, optional(Hir::concat(power))])
}

impl Schema<'_> {
    pub(super) fn string(&self, schema: &Json) -> Result<Hir, GuideError> {
        let (min, max) = self.counts(schema, "minLength", "maxLength")?;
        if max.is_some_and(|max| max < min) {
            return Ok(Hir::fail());
        }
        let bounded = min > 0 || max.is_some();
        let content = match (schema.get("pattern"), schema.get("format")) {
            (None, None) => return Ok(string(min, max)),
            (Some(Json::Text(pattern)), None) if !bounded => self.pattern(pattern)?,
            (None, Some(Json::Text(format))) if !bounded => self.format(format)?,
            (Some(_), Some(_)) => return Err(self.error("`pattern` and `format` are not supported together")),
            _ if bounded => {
                return Err(
                    self.error("`minLength` and `maxLength` are not supported beside `pattern` or `format`")
                );
            }
            _ => return Err(self.error("`pattern` and `format` must be strings")),
        };
        Ok(quoted(content))
    }

    fn format(&self, format: &str) -> Result<Hir, GuideError> {
        if format == "date-time" {
            return Ok(Hir::concat(vec![parse(DATE)?, literal("T"), parse(TIME)?]));
        }
        let known = FORMATS.iter().find(|(name, _)| *name == format);
        let names = FORMATS.map(|(name, _)| name).join(", ");
        let unknown = || self.error(format!("the format {format:?} is not supported, but {names} are"));
        parse(known.ok_or_else(unknown)?.1)
    }

    pub(super) fn integer(&self, schema: &Json) -> Result<Hir, GuideError> {
        let above = self.bound(schema, "exclusiveMinimum")?.map(|bound| bound.saturating_add(1));
        let below = self.bound(schema, "exclusiveMaximum")?.map(|bound| bound.saturating_sub(1));
        let min = self.bound(schema, "minimum")?.into_iter().chain(above).max();
        let max = self.bound(schema, "maximum")?.into_iter().chain(below).min();
        Ok(integer::between(min, max))
    }

    pub(super) fn number(&self, schema: &Json) -> Result<Hir, GuideError> {
        let [min, others @ ..] = NUMBER_KEYWORDS;
        if let Some(keyword) = others.iter().find(|keyword| schema.get(keyword).is_some()) {
            return Err(self.error(format!("`{keyword}` is only supported for integers")));
        }
        match self.bound(schema, min)? {
            None => Ok(number(true)),
            Some(0) => Ok(number(false)),
            Some(_) => Err(self.error("`minimum` is only supported for integers, or 0")),
        }
    }

    /// A whole number that a keyword gives.
    fn bound(&self, schema: &Json, keyword: &str) -> Result<Option<i64>, GuideError> {
        let Some(value) = schema.get(keyword) else { return Ok(None) };
        let whole = match value {
            Json::Number(number) => number.as_i64().or_else(|| {
                // Written with a fraction of nothing.
                let exact = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e15);
                #[expect(clippy::cast_possible_truncation, reason = "a whole number of less than 54 bits")]
                exact.map(|value| value as i64)
            }),
            _ => None,
        };
        whole
            .map(Some)
            .ok_or_else(|| self.error(format!("`{keyword}` cannot be {value}, but a whole number")))
    }
}
