//! Whether a text solves a Countdown problem.

/// Whether `text` is an expression over exactly `numbers`, each once, with `+ - * /` and parentheses, whose value is
/// within 1e-5 of `target`. Spaces are ignored; anything else makes it wrong. A decimal point may follow a number
/// (`6.`, the end of a sentence); digits behind it count as another number.
pub fn solves(text: &str, numbers: &[u64], target: u64) -> bool {
    let Some(tokens) = scan(text) else { return false };
    let digits = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let Ok(mut used) = digits.map(str::parse).collect::<Result<Vec<u64>, _>>() else { return false };
    let mut given = numbers.to_vec();
    used.sort_unstable();
    given.sort_unstable();
    used == given && evaluate(&tokens).is_some_and(|value| (value - target as f64).abs() < 1e-5)
}

/// Whether `text` works `target` out of exactly `numbers`: equations `a∘b=c` between commas, one for each operation, all
/// true in whole numbers, each operand a given number or an earlier result that was not used before.
pub fn works_out(text: &str, numbers: &[u64], target: u64) -> bool {
    let mut left = numbers.to_vec();
    let mut last = None;
    for step in text.split(',').map(str::trim) {
        let Some((operation, result)) = step.split_once('=') else { return false };
        let Some(at) = operation.find(['+', '-', '*', '/']) else { return false };
        let whole = |part: &str| part.parse::<u64>().ok();
        let (Some(a), Some(b)) = (whole(&operation[..at]), whole(&operation[at + 1..])) else { return false };
        let value = match &operation[at..=at] {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            _ => (b > 0 && a.is_multiple_of(b)).then(|| a / b),
        };
        if value.is_none() || value != whole(result) {
            return false;
        }
        for operand in [a, b] {
            let Some(place) = left.iter().position(|number| *number == operand) else { return false };
            left.swap_remove(place);
        }
        left.extend(value);
        last = value;
    }
    last == Some(target) && left.len() == 1
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token {
    Number(f64),
    Symbol(char),
}

fn scan(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_matches(' ').chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ' ' => {}
            '+' | '-' | '*' | '/' | '(' | ')' => tokens.push(Token::Symbol(c)),
            '0'..='9' | '.' => {
                let mut number = c.to_string();
                while let Some(next) = rest.next_if(|c| c.is_ascii_digit() || *c == '.') {
                    number.push(next);
                }
                tokens.push(Token::Number(number.parse().ok()?));
            }
            _ => return None,
        }
    }
    Some(tokens)
}

/// Value of an expression, or nothing if it is not one (or divides by zero).
fn evaluate(tokens: &[Token]) -> Option<f64> {
    let mut parser = Parser { tokens, depth: 0 };
    let value = parser.sum()?;
    (parser.tokens.is_empty() && value.is_finite()).then_some(value)
}

/// Parentheses and signs deeper than this are not read, so that no text can exhaust the stack.
const DEEPEST: usize = 64;

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Parser<'_> {
    fn accept(&mut self, symbols: &[char]) -> Option<char> {
        match self.tokens.first() {
            Some(Token::Symbol(c)) if symbols.contains(c) => {
                self.tokens = &self.tokens[1..];
                Some(*c)
            }
            _ => None,
        }
    }

    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product()?;
        while let Some(operator) = self.accept(&['+', '-']) {
            let right = self.product()?;
            value = if operator == '+' { value + right } else { value - right };
        }
        Some(value)
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.factor()?;
        while let Some(operator) = self.accept(&['*', '/']) {
            let right = self.factor()?;
            value = if operator == '*' { value * right } else { value / right };
        }
        Some(value)
    }

    fn factor(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let value = match self.accept(&['+', '-', '(']) {
            Some('+') => self.factor(),
            Some('-') => self.factor().map(|value| -value),
            Some(_) => {
                let value = self.sum()?;
                self.accept(&[')']).map(|_| value)
            }
            None => match self.tokens.split_first() {
                Some((Token::Number(n), rest)) => {
                    self.tokens = rest;
                    Some(*n)
                }
                _ => None,
            },
        };
        self.depth -= 1;
        value
    }
}
