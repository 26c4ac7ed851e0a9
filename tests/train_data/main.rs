//! Training data, scoring and the tokenizer.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod prepare;
mod ragged;

use std::collections::HashSet;

use evotoken::train::data::countdown::{self, Problem};
use evotoken::train::data::{Row, rows, sorting};
use evotoken::train::{score, tokenizer};
use proptest::prelude::*;

fn solution(numbers: &[u64], target: u64) -> Option<String> {
    Problem { numbers: numbers.to_vec(), target }.solution()
}

fn problem(row: &Row) -> Problem {
    let mut numbers: Vec<u64> =
        row.prompt.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    let target = numbers.pop().unwrap();
    let problem = Problem { numbers, target };
    assert_eq!(problem.prompt(), row.prompt);
    problem
}

#[test]
fn solutions_follow_the_canonical_rule() {
    let cases: [(&[u64], u64, Option<&str>); 13] = [
        (&[7, 9], 2, Some("9-7")),
        (&[9, 7], 64, None),
        (&[30, 100, 93], 23, Some("(93+30)-100")),
        (&[3, 41, 26], 45, Some("(41-26)*3")),
        (&[5, 3, 2], 30, Some("(5*3)*2")),
        (&[5, 3, 2], 10, Some("(5+3)+2")),
        (&[50, 7, 3], 40, Some("50-(7+3)")),
        (&[100, 7, 3], 10, Some("100/(7+3)")),
        (&[1, 5, 20], 4, Some("(20*1)/5")),
        (&[97, 89, 83], 1, None),
        (&[1, 2, 3, 4], 10, Some("((4+3)+2)+1")),
        (&[7, 7, 9, 9], 32, Some("((9+9)+7)+7")),
        (&[1, 1, 1, 1], 100, None),
    ];
    for (numbers, target, expected) in cases {
        assert_eq!(solution(numbers, target).as_deref(), expected, "{numbers:?} {target}");
    }
}

#[test]
fn sorted_lists_hold_the_numbers_of_their_prompts_in_order() {
    let rows = sorting::generate(200, 12, 3, &HashSet::new()).unwrap();
    for row in &rows {
        let numbers = row.prompt.strip_suffix('=').unwrap().split(", ");
        let mut numbers: Vec<u64> = numbers.map(|n| n.parse().unwrap()).collect();
        assert!(numbers.len() == 12 && numbers.iter().all(|n| *n < 100), "{row:?}");
        numbers.sort_unstable();
        assert_eq!(numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", "), row.completion);
    }
    assert_eq!(rows, sorting::generate(200, 12, 3, &HashSet::new()).unwrap());
    let known = rows.iter().map(|row| row.prompt.clone()).collect();
    let others = sorting::generate(200, 12, 3, &known).unwrap();
    assert!(others.iter().all(|row| !known.contains(&row.prompt)));
    assert!(sorting::generate(101, 1, 3, &HashSet::new()).is_err());
}

#[test]
fn the_order_of_the_numbers_does_not_change_the_solution() {
    let [a, b, c] = [12, 41, 22];
    let all = [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]];
    let solutions: HashSet<_> = all.map(|numbers| solution(&numbers, 75)).into();
    assert_eq!(solutions, HashSet::from([Some("(41+22)+12".to_owned())]));
}

#[test]
fn generated_rows_are_solved_different_seeded_and_not_excluded() {
    for numbers in [2, 3, 4] {
        let free = countdown::generate(300, numbers, 7, &HashSet::new()).unwrap();
        assert_eq!(free, countdown::generate(300, numbers, 7, &HashSet::new()).unwrap());
        assert_ne!(free, countdown::generate(300, numbers, 8, &HashSet::new()).unwrap());
        let keys = |rows: &[Row]| -> HashSet<_> { rows.iter().map(|row| problem(row).key()).collect() };
        assert_eq!(keys(&free).len(), 300);
        for row in &free {
            let Problem { numbers, target } = problem(row);
            assert!(score::solves(&row.completion, &numbers, target), "{row:?}");
        }
        let rest = countdown::generate(300, numbers, 7, &keys(&free)).unwrap();
        assert!(keys(&rest).is_disjoint(&keys(&free)));
    }
    assert!(countdown::generate(1, 1, 7, &HashSet::new()).is_err());
    assert!(countdown::generate(1, 6, 7, &HashSet::new()).is_err());
}

#[test]
fn rows_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 3}\n").unwrap();
    let error = format!("{:#}", rows::read(&path).unwrap_err());
    assert!(error.contains("rows.jsonl line 2"), "{error}");
}

#[test]
fn scoring_wants_an_expression_over_exactly_the_numbers() {
    let right = ["(93+30)-100", "93 + 30 - 100", "-100+93+30", "30-(100-93)"];
    let wrong = [
        "93+30",
        "(93+30)-100+1-1",
        "(93+30-100",
        "93+30-100=23",
        "93**30",
        "93//30-100",
        "",
        "()",
        "93.0+30-100",
    ];
    assert!(right.iter().all(|text| score::solves(text, &[30, 100, 93], 23)));
    assert!(wrong.iter().all(|text| !score::solves(text, &[30, 100, 93], 23)));
    assert!(score::solves("(1/3)*6", &[1, 3, 6], 2));
    assert!(!score::solves("1/(3-3)", &[1, 3, 3], 1));
    assert!(!score::solves(&"(".repeat(100_000), &[1], 1));
}

// ---- tokenizer ----

fn round_trip(text: &str) {
    let tokenizer = tokenizer::build().unwrap();
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
}

#[test]
fn a_prompt_is_nine_tokens_and_an_answer_seven() {
    let tokenizer = tokenizer::build().unwrap();
    let prompt = tokenizer.encode("Numbers: [30, 100, 93]\nTarget: 23", true).unwrap();
    assert_eq!(
        prompt.get_tokens(),
        ["<bos>", "Numbers: [", "30", ", ", "100", ", ", "93", "]\nTarget: ", "23"]
    );
    assert_eq!(prompt.get_ids()[0], tokenizer::BOS);
    let answer = tokenizer.encode("(93+30)-100", false).unwrap();
    assert_eq!(answer.get_tokens(), ["(", "93", "+", "30", ")", "-", "100"]);
    assert_eq!(tokenizer.get_vocab_size(true), tokenizer::VOCABULARY);
}

#[test]
fn awkward_texts_come_back() {
    let long = "9".repeat(5000);
    for text in [
        "",
        " ",
        "256",
        "1000000",
        "007",
        "<0x41>",
        "<0xFF>",
        "<mask>",
        "é\u{0}\u{1F600}",
        "Numbers: [",
        ", ,",
        &long,
    ] {
        round_trip(text);
    }
}

proptest! {
    #[test]
    fn any_text_comes_back(text in "\\PC*|[0-9, \\[\\]\nNumbersTarget:<>x()+*/-]*|(?s).*") {
        round_trip(&text);
    }
}
