//! A report for people.

use std::fmt;

use super::{AdapterReport, HOLDINGS, NetworkReport, Report, TextReport, TokenReport, WeightsReport};
use crate::decode::Attention;

/// Most lines of one kind; the rest are counted.
const SHOWN: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.place)?;
        if let Some(network) = &self.network {
            write!(f, "{network}")?;
        }
        if let Some(attention) = self.attention {
            writeln!(f, "attention       {}", named(attention))?;
        }
        if let Some(weights) = &self.weights {
            write!(f, "{weights}")?;
        }
        if let Some(text) = &self.text {
            write!(f, "{text}")?;
        }
        if let Some(adapter) = &self.adapter {
            write!(f, "{adapter}")?;
        }
        list(f, "unused tensors", &self.unused)?;
        list(f, "problems", &self.problems)?;
        let verdict = match (self.problems.is_empty(), &self.adapter) {
            (true, None) => "can be served",
            (true, Some(_)) => "looks sound; whether it fits a model shows when it is loaded",
            (false, _) => "cannot be served",
        };
        writeln!(f, "{verdict}")
    }
}

/// As the settings call it.
fn named(attention: Attention) -> &'static str {
    match attention {
        Attention::Full => "full",
        Attention::BlockCausal => "block_causal",
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    lines.iter().take(SHOWN).try_for_each(|line| writeln!(f, "  {line}"))?;
    match lines.len().checked_sub(SHOWN) {
        Some(more @ 1..) => writeln!(f, "  and {more} more"),
        _ => Ok(()),
    }
}

/// Bytes in the largest unit of which there are some.
fn bytes(count: usize) -> String {
    let units = [("GiB", 1_usize << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let shown = |(name, unit): &(&str, usize)| format!("{:.2} {name}", count as f64 / *unit as f64);
    units.iter().find(|(_, unit)| count >= *unit).map_or_else(|| format!("{count} bytes"), shown)
}

fn parameters(count: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let count = count as f64;
    match count {
        count if count >= 1e9 => format!("{:.2} billion", count / 1e9),
        count if count >= 1e6 => format!("{:.2} million", count / 1e6),
        count => format!("{count}"),
    }
}

impl fmt::Display for NetworkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = if self.tied_head { ", the head is the embedding table" } else { "" };
        let shift = if self.shifted_logits { ", shifted logits" } else { "" };
        writeln!(
            f,
            "architecture    {}, {} parameters{head}{shift}",
            self.architecture,
            parameters(self.parameters)
        )?;
        let Self { layers, width, heads, kv_heads, mlp, vocabulary, context_length, .. } = self;
        writeln!(
            f,
            "sizes           {layers} layers, width {width}, {heads} heads on {kv_heads} of keys and values, MLP {mlp}, vocabulary {vocabulary}"
        )?;
        writeln!(f, "context length  {context_length} tokens")?;
        let (wide, narrow) = (bytes(self.kv_bytes_per_token), bytes(self.kv_bytes_per_token_bf16));
        writeln!(f, "K/V memory      {wide} a token on the CPU, {narrow} on a GPU with bf16 weights")
    }
}

impl fmt::Display for WeightsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = bytes(self.files.values().sum());
        match self.files.first_key_value() {
            Some((name, _)) if self.files.len() == 1 => writeln!(f, "files           {name}, {total}")?,
            _ => writeln!(f, "files           {} shards, {total}", self.files.len())?,
        }
        for (number, (name, format)) in self.formats.iter().enumerate() {
            let title = if number == 0 { "stored as" } else { "" };
            writeln!(f, "{title:<16}{name}: {} tensors, {}", format.tensors, bytes(format.bytes))?;
        }
        let held = HOLDINGS.iter().filter_map(|(name, _)| Some((name, self.memory.get(*name)?)));
        let held: Vec<String> = held.map(|(name, count)| format!("{name} {}", bytes(*count))).collect();
        writeln!(f, "in memory       {}", held.join(", "))
    }
}

impl fmt::Display for TextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = |TokenReport { id, name }: &TokenReport| match name {
            Some(name) => format!("{id} {name:?}"),
            None => format!("{id} without a name"),
        };
        let end: Vec<String> = self.end_of_text.iter().map(token).collect();
        let end = if end.is_empty() { "none".to_owned() } else { end.join(", ") };
        writeln!(f, "tokenizer       {} tokens; mask {}; end of text {end}", self.tokens, token(&self.mask))?;
        let yes = |there| if there { "yes" } else { "no" };
        writeln!(f, "chat template   {}", yes(self.chat_template))?;
        writeln!(f, "recommendations {}", yes(self.generation_config))
    }
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, alpha, layers, .. } = self;
        let (count, size) = (parameters(self.parameters), bytes(self.bytes));
        writeln!(f, "adapter         LoRA of rank {rank}, alpha {alpha}, {count} parameters, {size}")?;
        let modules: Vec<String> =
            self.modules.iter().map(|(name, count)| format!("{name} ({count})")).collect();
        writeln!(f, "changes         {} in {layers} layers", modules.join(", "))?;
        writeln!(f, "trained for     {}", self.base_model.as_deref().unwrap_or("not said"))?;
        writeln!(f, "attention       {}", self.attention.map_or("as the model's", named))
    }
}
