//! Arrays.

use regex_syntax::hir::Hir;

use super::{Schema, any, listed, sign};
use crate::guide::GuideError;
use crate::guide::json::Json;
use crate::guide::pattern::literal;

/// What is known about arrays.
pub(super) const KEYWORDS: [&str; 4] = ["items", "prefixItems", "minItems", "maxItems"];

/// From `min` to `max` times `item`.
pub(super) fn of(item: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::concat(vec![literal("["), listed(item, min, max), literal("]")])
}

impl<'a> Schema<'a> {
    pub(super) fn array(&mut self, schema: &'a Json) -> Result<Hir, GuideError> {
        let (min, max) = self.counts(schema, "minItems", "maxItems")?;
        if let Some(prefix) = schema.get("prefixItems") {
            return self.tuple(prefix, min, max);
        }
        let item = match schema.get("items") {
            // An item of any content, in an array that is within something itself.
            None => any(1),
            Some(items) => self.within("items", items)?,
        };
        Ok(of(item, min, max))
    }

    /// Exactly these items; what may follow on them is left out.
    fn tuple(&mut self, prefix: &'a Json, min: u32, max: Option<u32>) -> Result<Hir, GuideError> {
        let Json::List(items) = prefix else {
            return Err(self.error(format!("`prefixItems` cannot be {prefix}")));
        };
        let len = items.len();
        if (min as usize) > len || max.is_some_and(|max| (max as usize) < len) {
            return Err(self.error("`minItems` and `maxItems` must allow as many items as `prefixItems` has"));
        }
        let mut parts = vec![literal("[")];
        for (at, item) in items.iter().enumerate() {
            parts.extend((at > 0).then(|| sign(",")));
            parts.push(self.within(format!("prefixItems[{at}]"), item)?);
        }
        parts.push(literal("]"));
        Ok(Hir::concat(parts))
    }
}
