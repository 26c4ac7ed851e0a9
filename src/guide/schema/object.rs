//! Objects.

use std::collections::HashSet;

use regex_syntax::hir::Hir;

use super::{ANY_NESTED, Schema, any, listed, scalar, sign};
use crate::guide::GuideError;
use crate::guide::json::Json;
use crate::guide::pattern::{literal, optional};

/// What is known about objects.
pub(super) const KEYWORDS: [&str; 5] =
    ["properties", "required", "additionalProperties", "minProperties", "maxProperties"];

/// From `min` to `max` members of any names.
pub(super) fn free(value: Hir, min: u32, max: Option<u32>) -> Hir {
    let member = Hir::concat(vec![scalar::string(0, None), sign(":"), value]);
    Hir::concat(vec![literal("{"), listed(member, min, max), literal("}")])
}

/// A property as it is written, and whether it has to be.
struct Property {
    text: Hir,
    required: bool,
}

impl<'a> Schema<'a> {
    pub(super) fn object(&mut self, schema: &'a Json) -> Result<Hir, GuideError> {
        let required = self.required(schema)?;
        let named: &[(String, Json)] = match schema.get("properties") {
            None => &[],
            Some(Json::Object(members)) => members,
            Some(other) => return Err(self.error(format!("`properties` cannot be {other}"))),
        };
        let (min, max) = self.counts(schema, "minProperties", "maxProperties")?;
        if min > 1 {
            return Err(
                self.error("`minProperties` above 1 is not supported: the names that are made up may repeat")
            );
        }
        if named.is_empty() && required.is_empty() {
            let value = match schema.get("additionalProperties") {
                None => any(ANY_NESTED - 1),
                Some(Json::Bool(false)) => Hir::fail(),
                Some(values) => self.within("additionalProperties", values)?,
            };
            return Ok(free(value, min, max));
        }
        if min > 0 || max.is_some() {
            return Err(
                self.error("`minProperties` and `maxProperties` are not supported beside `properties`")
            );
        }
        let mut properties = Vec::new();
        for (name, value) in named {
            let value = self.within(format!("properties.{name}"), value)?;
            properties
                .push(Property { text: member(name, value), required: required.contains(&name.as_str()) });
        }
        let unnamed = required.into_iter().filter(|name| named.iter().all(|(other, _)| other != name));
        let of_any_kind = |name| Property { text: member(name, any(ANY_NESTED - 1)), required: true };
        properties.extend(unnamed.map(of_any_kind));
        Ok(Hir::concat(vec![literal("{"), members(&properties), literal("}")]))
    }

    fn required(&self, schema: &'a Json) -> Result<Vec<&'a str>, GuideError> {
        let wrong = |value: &Json| self.error(format!("`required` cannot be {value}"));
        match schema.get("required") {
            None => Ok(Vec::new()),
            Some(value @ Json::List(names)) => {
                let mut seen = HashSet::new();
                let name = |name: &'a Json| match name {
                    Json::Text(name) if seen.insert(name.as_str()) => Ok(name.as_str()),
                    _ => Err(wrong(value)),
                };
                names.iter().map(name).collect()
            }
            Some(value) => Err(wrong(value)),
        }
    }
}

fn member(name: &str, value: Hir) -> Hir {
    Hir::concat(vec![literal(&Json::Text(name.to_owned()).to_string()), sign(":"), value])
}

/// The properties in their order, those that are not required there or not, with commas in between.
fn members(properties: &[Property]) -> Hir {
    let followed = |property: &Property| Hir::concat(vec![property.text.clone(), sign(",")]);
    let following = |property: &Property| {
        let text = Hir::concat(vec![sign(","), property.text.clone()]);
        if property.required { text } else { optional(text) }
    };
    // Behind one that is there, all others bring their comma; before it, too.
    let around = |before: &[Property], at: usize| {
        let mut parts: Vec<Hir> = before.iter().map(|property| optional(followed(property))).collect();
        parts.push(properties[at].text.clone());
        parts.extend(properties[at + 1..].iter().map(following));
        Hir::concat(parts)
    };
    match properties.iter().position(|property| property.required) {
        Some(first) => around(&properties[..first], first),
        // One of them is the first that is there, or none is.
        None => optional(Hir::alternation((0..properties.len()).map(|at| around(&[], at)).collect())),
    }
}
