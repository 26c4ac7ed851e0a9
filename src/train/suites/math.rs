//! When two MATH answers are the same: both are brought to one way of writing first.

use super::extract::closing_brace;

/// Whether two answers are written the same after [`normalized`].
pub fn same(a: &str, b: &str) -> bool {
    normalized(a) == normalized(b)
}

/// One way of writing for what MATH writes in many: no spaces, no layout commands, no units, `\frac{a}{b}` for fractions
/// and `\sqrt{a}` for roots, a zero before a bare decimal point, the right side of `x = …`.
pub fn normalized(answer: &str) -> String {
    let mut text = answer.replace('\n', "");
    for (from, to) in [
        (r"\!", ""),
        (r"\\", r"\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        (r"\left", ""),
        (r"\right", ""),
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
    ] {
        text = text.replace(from, to);
    }
    let mut text = plain_text(&without_unit(&text));
    for (from, to) in [(r"\%", ""), ("%", ""), (" .", " 0."), ("{.", "{0.")] {
        text = text.replace(from, to);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    let text = right_side(text.trim()).replace(' ', "");
    let text = fractions(&roots(&text));
    match text.as_str() {
        "0.5" => r"\frac{1}{2}".to_owned(),
        _ => slashed(&text).unwrap_or(text),
    }
}

/// Without a trailing unit, which MATH writes as `5\text{ cm}`: text that begins with a space.
fn without_unit(text: &str) -> String {
    match text.split_once(r"\text{ ") {
        Some((value, _)) if !value.trim().is_empty() => value.to_owned(),
        _ => text.to_owned(),
    }
}

/// `\text{word}` is the word.
fn plain_text(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(r"\text{") {
        let Some(end) = closing_brace(after) else { break };
        out.push_str(before);
        out.push_str(&after[..end]);
        rest = &after[end + 1..];
    }
    out + rest
}

/// The right side of a short equation (`x = 5`, `k=5`).
fn right_side(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if name.trim().chars().count() <= 2 && !value.contains('=') => value.trim(),
        _ => text,
    }
}

/// `\sqrt3` is `\sqrt{3}`.
fn roots(text: &str) -> String {
    let mut parts = text.split(r"\sqrt");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(r"\sqrt");
        match part.chars().next() {
            Some(first) if first != '{' && first != '[' => {
                out.push_str(&format!("{{{first}}}{}", &part[first.len_utf8()..]));
            }
            _ => out.push_str(part),
        }
    }
    out
}

/// `\frac12`, `\frac1{2}` and `\frac{1}2` are `\frac{1}{2}`.
fn fractions(text: &str) -> String {
    let mut parts = text.split(r"\frac");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(r"\frac");
        let both = argument(part).and_then(|(above, rest)| Some((above, argument(rest)?)));
        match both {
            Some((above, (below, rest))) => out.push_str(&format!("{{{above}}}{{{below}}}{rest}")),
            None => out.push_str(part),
        }
    }
    out
}

/// What a TeX command takes as its argument, a group or one character, and what follows.
fn argument(text: &str) -> Option<(&str, &str)> {
    if let Some(inside) = text.strip_prefix('{') {
        let end = closing_brace(inside)?;
        return Some((&inside[..end], &inside[end + 1..]));
    }
    // A command is a group's work: `\frac\pi2` is left as it is.
    let first = text.chars().next().filter(|c| *c != '\\' && *c != '}')?;
    Some(text.split_at(first.len_utf8()))
}

/// `a/b` of two whole numbers is `\frac{a}{b}`.
fn slashed(text: &str) -> Option<String> {
    let (above, below) = text.split_once('/')?;
    let (above, below): (i64, i64) = (above.parse().ok()?, below.parse().ok()?);
    (text == format!("{above}/{below}")).then(|| format!("\\frac{{{above}}}{{{below}}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_answer_in_other_clothes_is_the_same() {
        for (a, b) in [
            (r"\frac12", r"\frac{1}{2}"),
            (r"\dfrac{1}2", "1/2"),
            (r"\tfrac1{72}", r"\frac{1}{72}"),
            ("0.5", r"\frac{1}{2}"),
            (".5", "0.5"),
            (r"2\sqrt3", r"2\sqrt{3}"),
            (r"5\text{ cm}", "5"),
            (r"\text{Evelyn}", "Evelyn"),
            (r"90^\circ", "90"),
            (r"30^{\circ}", "30"),
            (r"\$18", "18"),
            (r"25\%", "25"),
            (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
            ("x = 5", "5"),
            (r"10{,}\!000", r"10{,}000"),
            ("1 , 2", "1,2"),
        ] {
            assert!(same(a, b), "{a}: {} is not {b}: {}", normalized(a), normalized(b));
        }
    }

    #[test]
    fn different_answers_stay_different() {
        for (a, b) in [
            ("5", "-5"),
            (r"\frac{1}{2}", r"\frac{2}{1}"),
            (r"\sqrt{23}", r"\sqrt23"),
            ("x+y=5", "5"),
            ("(1,2)", "(2,1)"),
            ("0.25", "0.5"),
            ("3/4/5", r"\frac{3}{4}/5"),
        ] {
            assert!(!same(a, b), "{a} and {b} are both {}", normalized(a));
        }
    }

    #[test]
    fn broken_tex_is_compared_as_it_stands() {
        for text in [r"\frac", r"\frac{1", r"\frac1", r"\sqrt", r"\text{", r"\frac{1}{2", "é/ü", r"\sqrt√"]
        {
            assert!(same(text, text));
        }
    }
}
