//! From a JSON schema to the regular expression of texts that are valid under it.
//!
//! The texts are JSON in one line: properties in the schema's order, at most one space behind a colon or a comma. Not every
//! valid text is among them, but every text among them is valid.

mod array;
mod integer;
mod object;
mod scalar;

use regex_syntax::hir::Hir;

use super::json::Json;
use super::pattern::{literal, optional, repeated};
use super::{GuideError, pattern};

/// Subschemas, each counted as often as it is written out.
const MOST_PARTS: usize = 20_000;
/// Schemas within each other.
const MOST_DEPTH: usize = 64;
/// How often a definition that contains itself is written out within itself.
const MOST_UNFOLDED: usize = 3;
/// Arrays and objects within each other where a schema says nothing.
const ANY_NESTED: usize = 2;

/// Keywords that no text has to satisfy.
const ANNOTATIONS: [&str; 14] = [
    "title",
    "description",
    "default",
    "example",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// The texts that are valid under a schema.
pub(super) fn expression(schema: &Json) -> Result<Hir, GuideError> {
    Schema { root: schema, place: Vec::new(), open: Vec::new(), parts: 0 }.value(schema)
}

/// Objects of any content.
pub(super) fn any_object() -> Hir {
    object::free(any(ANY_NESTED + 1), 0, None)
}

/// Values of any type, with so many arrays and objects within each other.
fn any(nested: usize) -> Hir {
    let mut branches =
        vec![scalar::string(0, None), scalar::number(true), scalar::boolean(), literal("null")];
    if let Some(within) = nested.checked_sub(1) {
        branches.push(object::free(any(within), 0, None));
        branches.push(array::of(any(within), 0, None));
    }
    Hir::alternation(branches)
}

/// A sign and perhaps a space.
fn sign(sign: &str) -> Hir {
    Hir::concat(vec![literal(sign), optional(literal(" "))])
}

/// From `min` to `max` times `item`, with commas in between.
fn listed(item: Hir, min: u32, max: Option<u32>) -> Hir {
    if max.is_some_and(|max| max < min) {
        return Hir::fail();
    }
    if max == Some(0) {
        return Hir::empty();
    }
    let more = Hir::concat(vec![sign(","), item.clone()]);
    let more = repeated(more, min.saturating_sub(1), max.map(|max| max - 1));
    let all = Hir::concat(vec![item, more]);
    if min == 0 { optional(all) } else { all }
}

/// A schema on its way to an expression.
struct Schema<'a> {
    root: &'a Json,
    /// Where in the schema this is.
    place: Vec<String>,
    /// References that are being written out.
    open: Vec<&'a str>,
    parts: usize,
}

impl<'a> Schema<'a> {
    fn error(&self, message: impl AsRef<str>) -> GuideError {
        let place = if self.place.is_empty() { "the top".to_owned() } else { self.place.join(".") };
        GuideError::new(format!("at {place}: {}", message.as_ref()))
    }

    /// The texts of a subschema, reached by `step` from here.
    fn within(&mut self, step: impl Into<String>, schema: &'a Json) -> Result<Hir, GuideError> {
        self.place.push(step.into());
        let found = self.value(schema);
        self.place.pop();
        found
    }

    fn value(&mut self, schema: &'a Json) -> Result<Hir, GuideError> {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(GuideError::too_large(format!("it writes out more than {MOST_PARTS} subschemas")));
        }
        if self.place.len() > MOST_DEPTH {
            return Err(GuideError::too_large(format!("it nests more than {MOST_DEPTH} subschemas")));
        }
        let members = match schema {
            Json::Bool(true) => return Ok(any(ANY_NESTED)),
            Json::Bool(false) => return Ok(Hir::fail()),
            Json::Object(members) => members,
            other => return Err(self.error(format!("a schema is an object, found {other}"))),
        };
        for keyword in ["enum", "const"] {
            if let Some(value) = schema.get(keyword) {
                self.check(members, &[keyword, "type"], &format!(" beside `{keyword}`"))?;
                return match (keyword, value) {
                    ("enum", Json::List(values)) => self.one_of(schema, values),
                    ("const", value) => self.one_of(schema, std::slice::from_ref(value)),
                    _ => Err(self.error(format!("`{keyword}` cannot be {value}"))),
                };
            }
        }
        for keyword in ["$ref", "anyOf", "oneOf", "allOf"] {
            if let Some(value) = schema.get(keyword) {
                self.check(members, &[keyword], &format!(" beside `{keyword}`"))?;
                return self.combined(keyword, value);
            }
        }
        self.typed(schema, members)
    }

    /// Those of the values that have the schema's type, if it names one.
    fn one_of(&self, schema: &'a Json, values: &[Json]) -> Result<Hir, GuideError> {
        let types = self.types(schema)?;
        let has = |kind: &str, value: &Json| {
            kind == value.kind() || (kind == "number" && value.kind() == "integer")
        };
        let fits = |value: &&Json| types.is_empty() || types.iter().any(|kind| has(kind, value));
        let texts = values.iter().filter(fits).map(|value| literal(&value.to_string()));
        Ok(Hir::alternation(texts.collect()))
    }

    /// A schema that is put together from others by this keyword.
    fn combined(&mut self, keyword: &'a str, value: &'a Json) -> Result<Hir, GuideError> {
        match (keyword, value) {
            ("$ref", Json::Text(reference)) => self.reference(reference),
            ("anyOf" | "oneOf", Json::List(branches)) => {
                let branch = |(at, branch)| self.within(format!("{keyword}[{at}]"), branch);
                Ok(Hir::alternation(branches.iter().enumerate().map(branch).collect::<Result<_, _>>()?))
            }
            ("allOf", Json::List(parts)) => match parts.as_slice() {
                [only] => self.within("allOf[0]", only),
                _ => Err(self.error("`allOf` is only supported with one schema")),
            },
            _ => Err(self.error(format!("`{keyword}` cannot be {value}"))),
        }
    }

    fn reference(&mut self, reference: &'a str) -> Result<Hir, GuideError> {
        let unknown = || self.error(format!("`$ref` {reference:?} leads nowhere within this schema"));
        let mut target = self.root;
        for step in reference.strip_prefix('#').ok_or_else(unknown)?.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            target = match target {
                Json::List(items) => step.parse::<usize>().ok().and_then(|at| items.get(at)),
                other => other.get(&step),
            }
            .ok_or_else(unknown)?;
        }
        if self.open.iter().filter(|open| **open == reference).count() >= MOST_UNFOLDED {
            return Ok(Hir::fail());
        }
        self.open.push(reference);
        let found = self.within(reference, target);
        self.open.pop();
        found
    }

    /// Whether all keywords are known here.
    fn check(&self, members: &[(String, Json)], known: &[&str], place: &str) -> Result<(), GuideError> {
        let strange = members
            .iter()
            .find(|(name, _)| !ANNOTATIONS.contains(&name.as_str()) && !known.contains(&name.as_str()));
        match strange {
            Some((name, _)) => Err(self.error(format!("the keyword `{name}` is not supported{place}"))),
            None => Ok(()),
        }
    }

    /// The types that a schema names, if any.
    fn types(&self, schema: &'a Json) -> Result<Vec<&'a str>, GuideError> {
        let one = |kind: &'a Json| match kind {
            Json::Text(kind) if TYPES.contains(&kind.as_str()) => Ok(kind.as_str()),
            other => Err(self.error(format!("{other} is no type"))),
        };
        match schema.get("type") {
            None => Ok(Vec::new()),
            Some(Json::List(kinds)) => kinds.iter().map(one).collect(),
            Some(kind) => one(kind).map(|kind| vec![kind]),
        }
    }

    /// A schema that says what values of its types are like.
    fn typed(&mut self, schema: &'a Json, members: &'a [(String, Json)]) -> Result<Hir, GuideError> {
        let mut types = self.types(schema)?;
        let keywords = |kind: &str| match kind {
            "integer" | "number" => &scalar::NUMBER_KEYWORDS[..],
            "string" => &scalar::STRING_KEYWORDS,
            "array" => &array::KEYWORDS,
            "object" => &object::KEYWORDS,
            _ => &[],
        };
        if types.is_empty() {
            // Without a type a keyword binds only values of its own: those are what is written.
            let meant = |kind: &&&str| keywords(kind).iter().any(|keyword| schema.get(keyword).is_some());
            types = TYPES.iter().filter(|kind| **kind != "integer").filter(meant).copied().collect();
            if types.is_empty() {
                self.check(members, &[], "")?;
                return Ok(any(ANY_NESTED));
            }
        }
        let known: Vec<&str> =
            types.iter().flat_map(|kind| keywords(kind)).copied().chain(["type"]).collect();
        self.check(members, &known, "")?;
        let branch = |kind: &str| match kind {
            "null" => Ok(literal("null")),
            "boolean" => Ok(scalar::boolean()),
            "integer" => self.integer(schema),
            "number" => self.number(schema),
            "string" => self.string(schema),
            "array" => self.array(schema),
            _ => self.object(schema),
        };
        Ok(Hir::alternation(types.into_iter().map(branch).collect::<Result<_, _>>()?))
    }

    /// A count that a keyword gives.
    fn count(&self, schema: &Json, keyword: &str) -> Result<Option<u32>, GuideError> {
        let Some(value) = schema.get(keyword) else { return Ok(None) };
        let count = match value {
            Json::Number(number) => number.as_u64().and_then(|count| u32::try_from(count).ok()),
            _ => None,
        };
        count.map(Some).ok_or_else(|| self.error(format!("`{keyword}` cannot be {value}")))
    }

    /// Two counts, the first 0 if it is not given.
    fn counts(&self, schema: &Json, min: &str, max: &str) -> Result<(u32, Option<u32>), GuideError> {
        Ok((self.count(schema, min)?.unwrap_or(0), self.count(schema, max)?))
    }

    fn pattern(&self, expression: &str) -> Result<Hir, GuideError> {
        let found = pattern::within_string(expression);
        found.map_err(|error| self.error(format!("the pattern {expression:?} {error}")))
    }
}
