//! Regular expressions: building blocks, clients' own, and those within JSON strings.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

use super::GuideError;

/// Nested groups and repetitions of a client's expression.
const MOST_NESTED: u32 = 100;

/// What a client wrote, to be matched as a whole.
pub(super) fn parse(expression: &str) -> Result<Hir, GuideError> {
    let parsed = ParserBuilder::new().nest_limit(MOST_NESTED).build().parse(expression);
    parsed.map_err(|error| {
        let reason = match error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            other => other.to_string(),
        };
        GuideError::new(format!("is no regular expression that is known here: {reason}"))
    })
}

/// This text.
pub(super) fn literal(text: &str) -> Hir {
    Hir::literal(text.as_bytes())
}

/// One of the characters in these ranges.
pub(super) fn class(ranges: &[(char, char)]) -> Hir {
    Hir::class(Class::Unicode(set(ranges)))
}

fn set(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(ranges.iter().map(|(from, to)| ClassUnicodeRange::new(*from, *to)))
}

/// So many times the same.
pub(super) fn repeated(part: Hir, min: u32, max: Option<u32>) -> Hir {
    Hir::repetition(Repetition { min, max, greedy: true, sub: Box::new(part) })
}

/// The same or nothing.
pub(super) fn optional(part: Hir) -> Hir {
    repeated(part, 0, Some(1))
}

/// The characters that stand for themselves in a JSON string.
pub(super) const PLAIN: [(char, char); 3] = [(' ', '!'), ('#', '['), (']', char::MAX)];

/// The content of a JSON string in which `expression` matches somewhere (`^` and `$` mean the string's ends). It has no
/// character that JSON would escape.
pub(super) fn within_string(expression: &str) -> Result<Hir, GuideError> {
    anchored(&parse(expression)?)
}

fn anchored(expression: &Hir) -> Result<Hir, GuideError> {
    let parts = match expression.kind() {
        HirKind::Alternation(branches) => {
            let branches = branches.iter().map(anchored).collect::<Result<_, _>>()?;
            return Ok(Hir::alternation(branches));
        }
        HirKind::Capture(group) => return anchored(&group.sub),
        HirKind::Concat(parts) => parts.as_slice(),
        _ => std::slice::from_ref(expression),
    };
    let is = |part: Option<&Hir>, look: Look| part.is_some_and(|part| *part.kind() == HirKind::Look(look));
    let starts = is(parts.first(), Look::Start);
    let parts = if starts { &parts[1..] } else { parts };
    let ends = is(parts.last(), Look::End);
    let parts = if ends { &parts[..parts.len() - 1] } else { parts };
    let anything = || repeated(class(&PLAIN), 0, None);
    let mut all = Vec::new();
    all.extend((!starts).then(anything));
    for part in parts {
        all.push(plain(part)?);
    }
    all.extend((!ends).then(anything));
    Ok(Hir::concat(all))
}

/// The expression without the characters that JSON escapes.
fn plain(expression: &Hir) -> Result<Hir, GuideError> {
    let all = |parts: &[Hir]| parts.iter().map(plain).collect::<Result<Vec<Hir>, _>>();
    let allowed = set(&PLAIN);
    match expression.kind() {
        HirKind::Empty => Ok(Hir::empty()),
        HirKind::Literal(literal) => {
            let escaped = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
            if literal.0.iter().any(escaped) {
                return Err(GuideError::new("a quote, a backslash or a control character is not supported"));
            }
            Ok(expression.clone())
        }
        HirKind::Class(found) => {
            let mut characters = match found {
                Class::Unicode(characters) => characters.clone(),
                Class::Bytes(bytes) => bytes.to_unicode_class().unwrap_or_else(ClassUnicode::empty),
            };
            characters.intersect(&allowed);
            Ok(Hir::class(Class::Unicode(characters)))
        }
        HirKind::Look(_) => {
            Err(GuideError::new("looking around is only supported as ^ at the start and $ at the end"))
        }
        HirKind::Repetition(repetition) => {
            let sub = Box::new(plain(&repetition.sub)?);
            Ok(Hir::repetition(Repetition { sub, ..repetition.clone() }))
        }
        HirKind::Capture(group) => plain(&group.sub),
        HirKind::Concat(parts) => Ok(Hir::concat(all(parts)?)),
        HirKind::Alternation(branches) => Ok(Hir::alternation(all(branches)?)),
    }
}
