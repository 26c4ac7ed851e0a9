//! Where in an answer the result stands: `\boxed{…}`, `<answer>…</answer>`, or a number in the text.

/// The contents of all `\boxed{…}` of a text, in order; braces inside a box are balanced, a box that is never closed
/// does not count.
pub fn boxes(text: &str) -> Vec<&str> {
    const OPEN: &str = r"\boxed{";
    let starts = text.match_indices(OPEN).map(|(at, _)| at + OPEN.len());
    starts.filter_map(|start| Some(&text[start..start + closing_brace(&text[start..])?])).collect()
}

/// Where the brace is closed that was opened just before `text`.
pub fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// What stands inside the first `<answer>…</answer>`, without the spaces around it.
pub fn tagged(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<answer>")?;
    rest.split_once("</answer>").map(|(inside, _)| inside.trim())
}

/// The numbers of a text, in order: an optional minus, digits, and an optional decimal part. A comma ends a number.
pub fn numbers(text: &str) -> Vec<f64> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let digits_end =
            |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let start = if at > 0 && bytes[at - 1] == b'-' { at - 1 } else { at };
        let mut end = digits_end(at);
        if bytes.get(end) == Some(&b'.') {
            end = digits_end(end + 1);
        }
        // Digits with one point are a number to Rust too ("5." and all).
        found.extend(text[start..end].parse::<f64>());
        at = end;
    }
    found
}

/// The runs of digits of a text, as whole numbers; one that is too large is `None`.
pub fn whole_numbers(text: &str) -> Vec<Option<u64>> {
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.map(|run| run.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_are_balanced_and_closed() {
        assert_eq!(boxes(r"\boxed{\frac{1}{2}} and \boxed{3}"), [r"\frac{1}{2}", "3"]);
        assert_eq!(boxes(r"\boxed{4} then \boxed{5"), ["4"]);
        assert_eq!(boxes(r"\boxed{a \boxed{b} c}"), [r"a \boxed{b} c", "b"]);
        assert!(boxes("boxed{4}").is_empty());
    }

    #[test]
    fn the_first_answer_element_is_read_if_it_is_closed() {
        assert_eq!(tagged("x <answer>\n 5 \n</answer><answer>6</answer>"), Some("5"));
        assert_eq!(tagged("<answer>5"), None);
    }

    #[test]
    fn numbers_have_signs_and_decimals_but_no_commas() {
        assert_eq!(numbers("-3.5, 7. and 1,000 or x-2"), [-3.5, 7.0, 1.0, 0.0, -2.0]);
        assert_eq!(numbers("3-2"), [3.0, -2.0]);
        assert!(numbers("none. -").is_empty());
    }

    #[test]
    fn whole_numbers_too_large_are_no_numbers() {
        assert_eq!(whole_numbers("12, 007;99999999999999999999"), [Some(12), Some(7), None]);
    }
}
