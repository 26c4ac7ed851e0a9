//! Chat templates: what messages become, and what is said when they become nothing.
//!
//! The expected texts are those of Jinja2 with Hugging Face's settings.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;

use evotoken::model::ModelSource;
use evotoken::model::bundled::COUNTDOWN;
use evotoken::text::Tokenizer;
use evotoken::text::chat_template::{ChatTemplate, ChatTemplateError, Message};
use serde_json::{Value, json};

/// A model folder that holds nothing but a tokenizer's configuration and perhaps a template file.
fn folder(config: Option<&Value>, file: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    if let Some(config) = config {
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    }
    if let Some(text) = file {
        std::fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<ChatTemplate, ChatTemplateError> {
    ChatTemplate::load(&ModelSource::folder(folder))
}

fn template(text: &str) -> ChatTemplate {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "unk_token": null,
                        "chat_template": text});
    load(folder(Some(&config), None).path()).unwrap()
}

fn render(text: &str, messages: &[Message]) -> Result<String, ChatTemplateError> {
    template(text).render(messages, false)
}

fn conversation() -> Vec<Message> {
    let system = Message { role: "system".to_owned(), content: "Be brief.".to_owned() };
    vec![system, Message::user("  2 < 3?\n"), Message::assistant("Yes."), Message::user("Why?")]
}

/// The shape of Llama 3's and LLaDA's: headers, trimmed contents, the first token before the first message.
const HEADERS: &str = "{% set turns = messages %}{% for turn in turns %}\
    {% set text = '<h>' + turn['role'] + '</h>\n\n' + turn['content'] | trim + '<end>' %}\
    {% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<h>assistant</h>\n\n' }}{% endif %}";

/// The shape of Qwen 2.5's and Dream's: a default system message, tools, calls of them, whitespace control.
const TOOLS: &str = r#"{%- if tools %}
    {{- '<|s|>system\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|e|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|s|>system\n' + messages[0]['content'] + '<|e|>\n' }}
    {%- else %}
        {{- '<|s|>system\nHelp.<|e|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|s|>' + message.role + '\n' + message.content + '<|e|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|s|>' + message.role }}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}
                {%- set call = call.function %}
            {%- endif %}
            {{- call.arguments | tojson }}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|s|>user' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|s|>assistant\n' }}
{%- endif %}
"#;

#[test]
fn a_template_with_headers_trims_contents_and_begins_once() {
    let expected = "<s><h>system</h>\n\nBe brief.<end><h>user</h>\n\n2 < 3?<end><h>assistant</h>\n\nYes.<end>\
                    <h>user</h>\n\nWhy?<end>";
    let template = template(HEADERS);
    assert_eq!(template.render(&conversation(), false).unwrap(), expected);
    let asked = template.render(&conversation(), true).unwrap();
    assert_eq!(asked, expected.to_owned() + "<h>assistant</h>\n\n");
}

#[test]
fn a_template_with_tools_works_without_any() {
    let template = template(TOOLS);
    assert_eq!(
        template.render(&conversation(), true).unwrap(),
        "<|s|>system\nBe brief.<|e|>\n<|s|>user\n  2 < 3?\n<|e|>\n<|s|>assistant\nYes.<|e|>\n\
         <|s|>user\nWhy?<|e|>\n<|s|>assistant\n"
    );
    assert_eq!(
        template.render(&[Message::user("Hi")], false).unwrap(),
        "<|s|>system\nHelp.<|e|>\n<|s|>user\nHi<|e|>\n"
    );
}

#[test]
fn the_bundled_model_is_shown_the_last_user_message() {
    let template = ChatTemplate::load(&COUNTDOWN).unwrap();
    let messages =
        [Message::user("a"), Message::assistant("b"), Message::user("Numbers: [1, 2, 3]\nTarget: 6")];
    let text = template.render(&messages, true).unwrap();
    assert_eq!(text, "<bos>Numbers: [1, 2, 3]\nTarget: 6");
    // The template has written the first token; the tokenizer must not write it again.
    let tokenizer = Tokenizer::load(&COUNTDOWN).unwrap();
    assert_eq!(tokenizer.encode_rendered(&text).unwrap(), tokenizer.encode(&text["<bos>".len()..]).unwrap());
}

#[test]
fn templates_find_what_jinja_and_python_offer() {
    let one = [Message::user(" a<b & \"ü\" ")];
    let cases = [
        // Blocks on lines of their own leave no trace, one newline at the end goes.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{{ messages | tojson }}", "[{\"role\": \"user\", \"content\": \" a<b & \\\"ü\\\" \"}]"),
        (
            "{{ {'a': [1, 2], 'b': none} | tojson(indent=1) }}",
            "{\n \"a\": [\n  1,\n  2\n ],\n \"b\": null\n}",
        ),
        ("{{ [] | tojson }}{{ {} | tojson(ensure_ascii=false) }}", "[]{}"),
        ("{{ messages[0].content.strip().upper().split('<') | join('|') }}", "A|B & \"Ü\""),
        ("{{ messages[0]['content'].startswith(' a') }} {{ none }} {{ 'true' }}", "True None true"),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        ("{% for k, v in messages[-1].items() %}{{ k }},{% endfor %}", "role,content,"),
        ("{{ messages[0].get('name', 'none') }} {{ messages[0].name is defined }}", "none False"),
        ("{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}", "<s></s>False"),
        ("{{ tools is none }} {{ documents is none }} {{ messages is iterable }}", "True True True"),
        ("{% macro turn(m) %}[{{ m.role }}]{% endmacro %}{{ turn(messages[0]) }}", "[user]"),
        ("{{ messages[::-1][0].role }}{{ 'x' * 3 }}", "userxxx"),
    ];
    for (text, expected) in cases {
        assert_eq!(render(text, &one).unwrap(), expected, "{text}");
    }
}

#[test]
fn the_time_is_given_in_the_format_asked_for() {
    let text = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    let parts: Vec<&str> = text.split(' ').collect();
    assert!((1..=31).contains(&parts[0].parse::<u32>().unwrap()), "{text}");
    assert_eq!(parts[1].len(), 3, "{text}");
    assert!(parts[2].parse::<u32>().unwrap() >= 2026, "{text}");
}

#[test]
fn a_template_file_goes_before_the_configuration() {
    let config = json!({"eos_token": "E", "chat_template": "from the configuration"});
    let folder = folder(Some(&config), Some("from the file{{ eos_token }}"));
    assert_eq!(load(folder.path()).unwrap().render(&[], false).unwrap(), "from the fileE");
}

#[test]
fn of_named_templates_the_default_is_taken() {
    let list = |name: &str| {
        let parts = json!([{"name": "tool_use", "template": "a"}, {"name": name, "template": "b"}]);
        load(folder(Some(&json!({"chat_template": parts})), None).path())
    };
    assert_eq!(list("default").unwrap().render(&[], false).unwrap(), "b");
    let error = list("rag").unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("named `default`"), "{error}");
}

#[test]
fn a_model_without_a_template_is_named() {
    for config in [None, Some(json!({})), Some(json!({"chat_template": null}))] {
        let folder = folder(config.as_ref(), None);
        let error = load(folder.path()).unwrap_err();
        assert!(matches!(error, ChatTemplateError::Missing(_)), "{error}");
        assert!(error.to_string().starts_with(&folder.path().display().to_string()), "{error}");
    }
}

#[test]
fn a_template_that_refuses_is_quoted() {
    let text = "{% macro check(m) %}{% if m.role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}\
                {% endmacro %}{% for m in messages %}{{ check(m) }}{% endfor %}";
    let error = render(text, &conversation()).unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses the messages: no system, please");
    assert_eq!(render(text, &conversation()[1..]).unwrap(), "");
}

#[test]
fn a_broken_template_is_an_error_with_its_line() {
    let broken = folder(None, Some("fine\n{% if %}"));
    let error = load(broken.path()).unwrap_err().to_string();
    assert!(error.starts_with("chat_template.jinja: ") && error.contains(":2"), "{error}");
    let error = render("a\n{{ messages[0].name.first }}", &[Message::user("x")]).unwrap_err().to_string();
    assert!(error.starts_with("the chat template failed: ") && error.contains(":2"), "{error}");
    let garbled = folder(None, None);
    std::fs::write(garbled.path().join("tokenizer_config.json"), "{").unwrap();
    let error = load(garbled.path()).unwrap_err().to_string();
    assert!(error.starts_with("tokenizer_config.json: "), "{error}");
}
