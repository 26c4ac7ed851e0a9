//! The small files of a model folder.

use evotoken::model::{ModelConfig, ModelSource};
use evotoken::service::GenerationDefaults;
use evotoken::text::TokenizerConfig;
use evotoken::text::chat_template::{ChatTemplate, Message};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::checkpoint;
use crate::memory;
use crate::spoil::{changes, cut, cuts, spoil};
use crate::weights::answers;

const WORDS: &[&str] = &[
    "llada",
    "Dream",
    "LLADA",
    "silu",
    "gelu",
    "llama",
    "rms",
    "n_heads",
    "n_kv_heads",
    "d_model",
    "n_layers",
    "mask_token_id",
    "eos_token_id",
    "embedding_size",
    "max_sequence_length",
    "rope_theta",
    "weight_tying",
    "hidden_size",
    "rope_scaling",
    "max_position_embeddings",
];

const GENERATION: &[&str] = &[
    "evotoken",
    "mask",
    "dual",
    "prefix",
    "none",
    "hard",
    "lagged",
    "steps",
    "threshold",
    "factor",
    "block_length",
    "k_soft",
    "alpha",
    "eos_token_id",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "do_sample",
    "diffusion",
];

/// A template is a program of the model's makers, and one that repeats a text often enough takes all memory; what the server adds to
/// the language does not.
const TEMPLATES: &[&str] = &[
    "chat_template",
    "bos_token",
    "content",
    "name",
    "template",
    "default",
    "{{ messages }}",
    "{% for m in messages %}",
    "{{ messages[0].content.split('')[9] }}",
    "{{ '%s' % 1 }}",
    "{{ bos_token + 1 }}",
    "{{ range(1000000000) }}",
    "{{ messages | tojson(indent=99999999999) }}",
    "{% set x = x %}{{ x.y.z }}",
    "{{ strftime_now('%Q%') }}",
    "{{ messages[-99]['role'][::0] }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
];

proptest! {
    #[test]
    fn a_damaged_config_is_refused_or_runs(dream in any::<bool>(), changes in changes(WORDS), cuts in cuts()) {
        let mut config = if dream { checkpoint::dream_config() } else { checkpoint::config() };
        spoil(&mut config, &changes);
        let mut bytes = config.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        if ModelConfig::from_json(&bytes).is_ok() {
            let folder = tempfile::tempdir().unwrap();
            checkpoint::write(folder.path(), &Value::Null);
            std::fs::write(folder.path().join("config.json"), bytes).unwrap();
            answers(folder.path(), None);
        }
        memory::check();
    }

    #[test]
    fn damaged_generation_defaults_are_refused_or_in_range(changes in changes(GENERATION), cuts in cuts()) {
        let mut defaults = json!({
            "eos_token_id": [1, 2], "max_new_tokens": 8, "temperature": 0.5, "do_sample": true,
            "top_p": 0.9, "top_k": 50, "min_p": 0.1,
            "diffusion": {"method": "evotoken", "threshold": 0.9, "block_length": 4, "k_soft": 3, "alpha": 0.7,
                          "cache": "dual", "boundary": "hard"}});
        spoil(&mut defaults, &changes);
        let mut bytes = defaults.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        if let Ok(defaults) = GenerationDefaults::from_json(&bytes) {
            prop_assert!(defaults.decode.check().is_ok());
            prop_assert!(defaults.temperature.is_none_or(|t| (0.0..=2.0).contains(&t)));
            let shares = [defaults.top_p, defaults.min_p];
            prop_assert!(shares.iter().flatten().all(|share| (0.0..=1.0).contains(share)));
            prop_assert!(defaults.top_k.is_none_or(|count| count >= -1));
            // What one answer's length and vocabulary make of it.
            let _ = defaults.decode.resolve(8, 12);
        }
        memory::check();
    }

    #[test]
    fn a_damaged_chat_template_is_refused_or_renders(changes in changes(TEMPLATES), cuts in cuts(), in_list in any::<bool>()) {
        let template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'].strip() | tojson }}\
                        {% if loop.last and add_generation_prompt %}[assistant]{% endif %}{% endfor %}";
        let named = if in_list { json!([{"name": "default", "template": template}]) } else { json!(template) };
        let mut config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": named});
        spoil(&mut config, &changes);
        let mut bytes = config.to_string().into_bytes();
        cut(&mut bytes, &cuts);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), bytes).unwrap();
        let source = ModelSource::folder(folder.path());
        if let Ok(template) = ChatTemplate::load(&source) {
            let _ = template.render(&[Message::user("a"), Message::assistant("b")], true);
        }
        let _ = TokenizerConfig::load(&source);
        memory::check();
    }
}
