//! Questions and answers: the rules of the data sets, the chat template, what is kept.

use std::path::Path;

use evotoken::model::ModelSource;
use evotoken::text::Tokenizer;
use evotoken::text::chat_template::ChatTemplate;
use evotoken::train::data::TokenRow;
use evotoken::train::data::prepare::{Prepared, Selection, prepare};
use evotoken::train::data::sources::{Kind, Sample, read};
use evotoken::train::suites::wording::FORM;
use evotoken::train::tokenizer;
use serde_json::{Value, json};

fn file(rows: &[Value]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// What the assistant says in the rows that are left, by line, and how many rows are left out.
fn answers(kind: Kind, rows: &[Value]) -> (Vec<(usize, String)>, usize) {
    let (samples, left_out) = read(file(rows).path(), kind).unwrap();
    let answer = |s: &Sample| (s.line, s.messages.last().unwrap().content.clone());
    (samples.iter().map(answer).collect(), left_out)
}

#[test]
fn a_question_stands_below_the_instruction() {
    let row = json!({"question": "What is 1 + 1?", "answer": "One more than 1.\n#### 2"});
    let (samples, _) = read(file(&[row]).path(), Kind::Gsm8k).unwrap();
    let [user, assistant] = &samples[0].messages[..] else { panic!("two messages") };
    assert_eq!((user.role.as_str(), assistant.role.as_str()), ("user", "assistant"));
    assert_eq!(user.content, format!("{FORM}\n\nWhat is 1 + 1?"));
    let lines: Vec<&str> = FORM.split('\n').collect();
    assert_eq!((lines[0], lines[lines.len() - 1]), ("", ""));
    for tag in ["<reasoning>", "</reasoning>", "<answer>", "\\boxed{...}", "</answer>"] {
        assert_eq!(lines.iter().filter(|line| **line == tag).count(), 1, "{tag}");
    }
}

#[test]
fn gsm8k_is_split_at_the_last_marker() {
    let row = json!({"question": "q", "answer": "3 #### 4\nso\n####  1,000 \n"});
    let wrong = json!({"question": "q", "answer": "####5"});
    let (found, left_out) = answers(Kind::Gsm8k, &[row]);
    let text = "<reasoning>3 #### 4\nso\n</reasoning>\n<answer>\\boxed{1,000}</answer>";
    assert_eq!((found, left_out), (vec![(1, text.to_owned())], 0));
    let file = file(&[wrong]);
    let error = format!("{:#}", read(file.path(), Kind::Gsm8k).unwrap_err());
    assert_eq!(error, format!("{} line 1: the answer has no `#### `", file.path().display()));
}

#[test]
fn of_s1k_only_mathematics_with_a_box_is_left() {
    let row = |kind: &str, attempt: &str| json!({"question": "q", "attempt": attempt, "cot_type": kind, "cot": null});
    let boxed = "Not \\boxed{1}, but \\boxed{\\frac{1}{2}}.";
    let rows = [row("math", "no box"), row("science", boxed), row("math", boxed), row("math", "\\boxed{3")];
    let (found, left_out) = answers(Kind::S1k, &rows);
    let text = format!("<reasoning>{boxed}</reasoning>\n<answer>\\boxed{{\\frac{{1}}{{2}}}}</answer>");
    assert_eq!((found, left_out), (vec![(3, text)], 3));
}

#[test]
fn a_math_row_without_a_box_does_not_get_the_answer_of_the_row_before() {
    let row = |solution: &str| json!({"problem": "p", "solution": solution, "level": "Level 1"});
    let (found, left_out) = answers(Kind::Math, &[row("so \\boxed{7}"), row("so 8"), row("\\boxed{9} {x}")]);
    let text = |r: &str, a: &str| format!("<reasoning>{r}</reasoning>\n<answer>\\boxed{{{a}}}</answer>");
    let expected = vec![(1, text("so \\boxed{7}", "7")), (3, text("\\boxed{9} {x}", "9} {x"))];
    assert_eq!((found, left_out), (expected, 1));
}

#[test]
fn plain_rows_are_taken_as_they_are() {
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                          {"role": "assistant", "content": "a"}]);
    let rows = [json!({"question": " q ", "answer": " a ", "id": 3}), json!({ "messages": messages })];
    let (samples, left_out) = read(file(&rows).path(), Kind::Jsonl).unwrap();
    let contents = |s: &Sample| s.messages.iter().map(|m| m.content.clone()).collect::<Vec<_>>();
    assert_eq!(samples.iter().map(contents).collect::<Vec<_>>(), [vec![" q ", " a "], vec!["s", "u", "a"]]);
    assert_eq!(left_out, 0);
}

#[test]
fn rows_of_no_known_shape_are_named() {
    let fine = json!({"question": "q", "answer": "a"});
    let user = json!({"role": "user", "content": "u"});
    let assistant = json!({"role": "assistant", "content": "a"});
    for wrong in [
        json!({"question": "q"}),
        json!({"question": "q", "answer": "a", "messages": [user, assistant]}),
        json!({"messages": [assistant]}),
        json!({"messages": [assistant, user]}),
        json!({"messages": [{"role": "user"}]}),
        json!({"question": 3, "answer": "a"}),
        json!([1]),
    ] {
        let file = file(&[fine.clone(), wrong.clone()]);
        let error = format!("{:#}", read(file.path(), Kind::Jsonl).unwrap_err());
        assert!(error.starts_with(&format!("{} line 2: ", file.path().display())), "{wrong}: {error}");
    }
    let error = format!("{:#}", read(Path::new("no/such.jsonl"), Kind::Math).unwrap_err());
    assert!(error.starts_with("cannot read no/such.jsonl"), "{error}");
}

// ---- rows of tokens ----

/// Every character but a digit is one token of the Countdown tokenizer.
const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
                        {{ bos_token }}{{ m.role }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}{{ bos_token }}{% endif %}";

fn selection() -> Selection {
    Selection { max_tokens: 60, min_answer_tokens: 10, keep: 100, held_out_share: 0.0, seed: 1 }
}

fn prepared(template: &str, rows: &[Value], selection: &Selection) -> anyhow::Result<Prepared> {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"bos_token": "<bos>", "chat_template": template});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer::tokenizer_json().to_string()).unwrap();
    let model = ModelSource::folder(folder.path());
    let (template, tokenizer) = (ChatTemplate::load(&model)?, Tokenizer::load(&model)?);
    let file = file(rows);
    let (samples, _) = read(file.path(), Kind::Jsonl)?;
    prepare((&samples, Path::new("rows.jsonl")), &template, &tokenizer, selection)
}

fn row(question: &str, answer: &str) -> Value {
    json!({"question": question, "answer": answer})
}

#[test]
fn a_prompt_ends_one_newline_behind_the_question_and_the_header_is_answer() {
    let made = prepared(TEMPLATE, &[row("abc", "defghij")], &selection()).unwrap();
    let text = tokenizer::build().unwrap();
    let ids = text.encode("<bos>user:abc\n<bos>assistant:defghij\n", false).unwrap().get_ids().to_vec();
    assert_eq!(ids.iter().filter(|id| **id == tokenizer::BOS).count(), 2);
    // <bos>, `user:`, `abc`, the template's newline, one more newline: it covers the assistant's <bos>.
    assert_eq!(made.rows, [TokenRow { ids, prompt_len: 1 + 5 + 3 + 1 + 1 }]);
    assert!(made.held_out.is_empty());
}

#[test]
fn rows_outside_the_limits_are_left_out_whole() {
    // A row of n + m characters has n + m + 19 tokens, m + 11 of them behind the prompt.
    let length = |n, m| row(&"q".repeat(n), &"a".repeat(m));
    let limits = Selection { max_tokens: 39, min_answer_tokens: 16, ..selection() };
    let rows = [length(10, 10), length(10, 11), length(3, 5), length(3, 4), length(30, 2)];
    let made = prepared(TEMPLATE, &rows, &limits).unwrap();
    let lengths: Vec<usize> = made.rows.iter().map(|row| row.ids.len()).collect();
    assert_eq!((lengths, made.too_long, made.too_short), (vec![27, 39], 2, 1));
    let error = prepared(TEMPLATE, &rows[3..], &limits).unwrap_err().to_string();
    let expected = "no row of rows.jsonl is left: 2 fit the kind, 1 have more than 39 tokens, 1 fewer than 16 behind the prompt";
    assert_eq!(error, expected);
}

#[test]
fn rows_are_shuffled_cut_held_out_and_sorted() {
    let rows: Vec<Value> = (0..20).map(|n| row(&"q".repeat(1 + n * 7 % 20), &"a".repeat(12))).collect();
    let limits = Selection { keep: 12, held_out_share: 0.26, ..selection() };
    let made = prepared(TEMPLATE, &rows, &limits).unwrap();
    assert_eq!((made.rows.len(), made.held_out.len(), made.surplus), (9, 3, 8));
    assert!(made.rows.is_sorted_by_key(|row| row.ids.len()));
    let mut lengths: Vec<usize> = made.rows.iter().chain(&made.held_out).map(|row| row.ids.len()).collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths.len(), 12, "no row is used twice");
    assert_eq!(made, prepared(TEMPLATE, &rows, &limits).unwrap());
    let other = prepared(TEMPLATE, &rows, &Selection { seed: 2, ..limits }).unwrap();
    assert_ne!(made.held_out, other.held_out);
}

#[test]
fn a_template_that_cannot_show_the_answer_is_named_with_the_line() {
    let error = prepared("{{ messages[0].content }}", &[row("q", "a")], &selection()).unwrap_err();
    let expected = "rows.jsonl line 1: the model's chat template leaves out what the assistant says";
    assert_eq!(format!("{error:#}"), expected);
    let tool = json!({"messages": [{"role": "tool", "content": "t"}, {"role": "assistant", "content": "a"}]});
    let error = prepared(TEMPLATE, &[row("q", "a"), tool], &selection()).unwrap_err();
    let expected = "rows.jsonl line 2: the chat template refuses the messages: no tools";
    assert_eq!(format!("{error:#}"), expected);
}
