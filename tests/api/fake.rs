//! A scripted model: its answer is the prompt again, then end-of-text. Marker letters in the prompt make it misbehave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use evotoken::engine::batch::{
    AdapterId, Backend, BackendError, Sampling, Segment, SlotId, StepBatch, StepOutput,
};
use evotoken::model::adapters::AdapterLoader;
use evotoken::model::{ModelError, ModelSource};
use evotoken::text::Tokenizer;
use serde_json::{Value, json};

pub const MASK: u32 = 0;
pub const EOS: u32 = 1;
pub const BOS: u32 = 2;
/// `<0x00>`; the other bytes follow.
const FIRST_BYTE: u32 = 3;
/// The space, then the other printable ASCII characters.
const FIRST_LETTER: u32 = FIRST_BYTE + 256;
pub const VOCAB: usize = FIRST_LETTER as usize + 95;

/// A prompt with this letter makes every forward pass that carries it fail.
pub const FAIL: char = '#';
/// A prompt with this letter makes every forward pass that carries it panic.
pub const PANIC: char = '!';
/// A prompt with this letter makes every forward pass that carries it take a while.
pub const SLOW: char = '~';
/// How long.
pub const SLOW_STEP: Duration = Duration::from_millis(50);
/// Prompt and answer of this length get no memory.
pub const NO_MEMORY_CANVAS: usize = 77;

/// Printable ASCII is one token a character, everything else one token a byte; a beginning-of-text token comes first.
pub fn tokenizer() -> Arc<Tokenizer> {
    decoded_by(json!([{"type": "ByteFallback"}, {"type": "Fuse"}]))
}

/// The same, but the space before a text is not shown, as SentencePiece's converted tokenizers have it.
pub fn stripping_tokenizer() -> Arc<Tokenizer> {
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    decoded_by(json!([{"type": "ByteFallback"}, {"type": "Fuse"}, strip]))
}

fn decoded_by(decoders: Value) -> Arc<Tokenizer> {
    let mut vocab = serde_json::Map::new();
    let mut add = |text: String| vocab.insert(text, json!(vocab.len()));
    for text in ["<mask>", "<eos>", "<bos>"] {
        add(text.to_owned());
    }
    (0..=255_u8).for_each(|byte| drop(add(format!("<0x{byte:02X}>"))));
    (' '..='~').for_each(|letter| drop(add(letter.to_string())));
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [special(MASK, "<mask>"), special(EOS, "<eos>"), special(BOS, "<bos>")],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}}},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "vocab": Value::Object(vocab), "merges": [], "byte_fallback": true}});
    Arc::new(Tokenizer::from_json(json.to_string().as_bytes()).expect("a valid tokenizer"))
}

/// The token of a printable ASCII character.
pub fn letter(letter: char) -> u32 {
    FIRST_LETTER + u32::from(letter) - u32::from(' ')
}

#[derive(Debug)]
pub struct FakeBackend {
    prompts: HashMap<SlotId, Vec<u32>>,
    /// Whether marker letters, and the length without memory, mean anything.
    markers: bool,
    gate: Option<Gate>,
}

/// The backend's end of a [`gate`].
#[derive(Debug)]
pub struct Gate {
    permits: Receiver<()>,
    counts: Arc<Counts>,
}

/// What a gated backend was asked for so far.
#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    closed: AtomicUsize,
    dropped: AtomicUsize,
    begun: AtomicUsize,
    ticks: AtomicUsize,
}

/// The test's end of a [`gate`].
#[derive(Debug)]
pub struct Keeper {
    permits: Option<Sender<()>>,
    counts: Arc<Counts>,
}

/// Lets ticks pass one by one, and counts.
pub fn gate() -> (Gate, Keeper) {
    let (sender, permits) = channel();
    let counts = Arc::<Counts>::default();
    let keeper = Keeper { permits: Some(sender), counts: Arc::clone(&counts) };
    (Gate { permits, counts }, keeper)
}

impl Keeper {
    /// One more tick may pass.
    pub fn let_tick_pass(&self) {
        self.permits.as_ref().expect("ticks still wait").send(()).expect("the backend lives");
    }

    /// No tick waits from now on.
    pub fn let_all_pass(&mut self) {
        self.permits = None;
    }

    /// Slots that were opened and closed.
    pub fn opened_and_closed(&self) -> (usize, usize) {
        let Counts { opened, closed, .. } = &*self.counts;
        (opened.load(Ordering::SeqCst), closed.load(Ordering::SeqCst))
    }

    /// Adapters that were given back.
    pub fn dropped(&self) -> usize {
        self.counts.dropped.load(Ordering::SeqCst)
    }

    /// Wait until so many ticks passed or wait to.
    pub async fn until_begun(&self, ticks: usize) {
        while self.counts.begun.load(Ordering::SeqCst) < ticks {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ticks that passed.
    pub fn ticks(&self) -> usize {
        self.counts.ticks.load(Ordering::SeqCst)
    }
}

impl FakeBackend {
    pub fn new(markers: bool, gate: Option<Gate>) -> Self {
        Self { prompts: HashMap::new(), markers, gate }
    }

    fn count(&self, which: impl Fn(&Counts) -> &AtomicUsize) {
        if let Some(gate) = &self.gate {
            which(&gate.counts).fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Token at a canvas position behind the prompt; with an adapter the one so many letters further on.
    fn answer(&self, segment: &Segment, position: usize) -> u32 {
        let prompt = &self.prompts[&segment.slot];
        let spoken: Vec<u32> = prompt.iter().copied().filter(|id| *id != BOS).collect();
        let further = segment.adapter.map_or(0, |AdapterId(number)| u32::try_from(number).expect("a few"));
        spoken.get(position - prompt.len()).map_or(EOS, |id| id + further)
    }

    /// The same with the sequence's adjustments: the second choice is `$`.
    fn wished(&self, segment: &Segment, position: usize) -> u32 {
        let mut logits = vec![0.0; VOCAB];
        logits[letter('$') as usize] = 1.0;
        logits[self.answer(segment, position) as usize] = 9.0;
        let draws = |sampling: &&Sampling| sampling.temperature > 0.0 && sampling.filters.top_k == 2;
        if segment.sampling.as_ref().filter(draws).is_some() {
            // Of two candidates a draw is the second.
            logits[letter('$') as usize] = 10.0;
        }
        if let Some(adjustment) = segment.sampling.as_ref().and_then(|sampling| sampling.adjustment.as_ref())
        {
            adjustment.apply(&mut logits, position);
        }
        let best = (0..).zip(logits).max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.expect("a vocabulary").0
    }
}

/// Any folder that is there is an adapter, unless it holds a file `broken`.
#[derive(Debug)]
pub struct FakeLoader;

impl AdapterLoader for FakeLoader {
    fn load(&self, _id: AdapterId, source: &ModelSource) -> Result<(), ModelError> {
        let ModelSource::Folder(folder) = source else { panic!("a folder is loaded") };
        if !folder.is_dir() {
            let file = "adapter_config.json".to_owned();
            return Err(ModelError::Missing { file, place: source.place() });
        }
        if folder.join("broken").exists() {
            let reason = "expected shape [4, 64], found [4, 128]".to_owned();
            return Err(ModelError::Tensor { name: "q_proj.lora_A.weight".to_owned(), reason });
        }
        Ok(())
    }
}

/// The token that is scored.
fn given(segment: &Segment) -> Option<u32> {
    segment.sampling.as_ref().and_then(|sampling| sampling.given)
}

impl Backend for FakeBackend {
    fn bytes_per_position(&self) -> usize {
        10
    }

    fn open_slot(&mut self, _slot: SlotId, canvas: usize) -> Result<(), BackendError> {
        if self.markers && canvas == NO_MEMORY_CANVAS {
            return Err(BackendError::OutOfMemory { bytes: canvas });
        }
        self.count(|counts| &counts.opened);
        Ok(())
    }

    fn close_slot(&mut self, slot: SlotId) {
        self.count(|counts| &counts.closed);
        self.prompts.remove(&slot);
    }

    fn drop_adapter(&mut self, _adapter: AdapterId) {
        self.count(|counts| &counts.dropped);
    }

    fn step(&mut self, batch: &StepBatch) -> Result<StepOutput, BackendError> {
        self.count(|counts| &counts.begun);
        if let Some(gate) = &self.gate {
            // A dropped keeper is an open gate.
            let _ = gate.permits.recv();
        }
        self.count(|counts| &counts.ticks);
        let mut row = 0;
        // Tokens before the first mask of each segment.
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for segment in &batch.segments {
            let fed = |row: usize| batch.row(row)[0].0;
            seen.push((row..row + segment.window.len()).map(fed).take_while(|id| *id != MASK).collect());
            if given(segment).is_none() {
                self.prompts.entry(segment.slot).or_insert_with(|| seen[seen.len() - 1].clone());
            }
            row += segment.window.len();
        }
        let asked = |marker: char| {
            let mut prompts = batch.segments.iter().filter_map(|segment| self.prompts.get(&segment.slot));
            self.markers && prompts.any(|prompt| prompt.contains(&letter(marker)))
        };
        assert!(!asked(PANIC), "the fake was asked to panic");
        if asked(FAIL) {
            return Err(BackendError::Forward("the fake was asked to fail".to_owned()));
        }
        if asked(SLOW) {
            std::thread::sleep(SLOW_STEP);
        }
        let mut output = StepOutput { top_k: batch.top_k, ..StepOutput::default() };
        for (segment, seen) in batch.segments.iter().zip(seen) {
            for position in segment.targets.clone() {
                if let Some(token) = given(segment) {
                    assert_eq!(seen.len(), position, "the scored token is masked, and none before it");
                    let best = (letter('$'), 0.5);
                    let given = if token == best.0 { best } else { (token, 0.25) };
                    let top = [best, (letter('%'), 0.25), (letter('&'), 0.1)];
                    // As many as every row has: another sequence of the tick may want more.
                    let more = (3..batch.top_k as u32).map(|rank| (FIRST_BYTE + rank % 256, 0.001));
                    output.push_row(given, top.into_iter().chain(more).take(batch.top_k));
                    continue;
                }
                let token = self.wished(segment, position);
                let others = (1..batch.top_k as u32).map(|rank| (FIRST_BYTE + rank % 256, 0.01));
                output.push_row((token, 0.95), std::iter::once((token, 0.95)).chain(others));
            }
        }
        Ok(output)
    }
}
