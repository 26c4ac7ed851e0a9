//! The training loop.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::Var;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::checkpoint::{self, Progress};
use super::curve;
use super::data::TokenRows;
use super::data::rows::Order;
use super::lora::{self, LoraPath};
use super::network::{Network, Weights};
use super::objective::{self, Gradients, Truth};
use super::optimizer::AdamW;
use super::random::{Purpose, Stream};
use super::settings::{Canvas, Objective, Settings};

/// A run: what it trains, on what, and how far it is.
pub struct Run {
    settings: Settings,
    network: Network,
    /// What trains: all weights, or the adapter's.
    variables: BTreeMap<String, Var>,
    /// What does not: nothing, or the model's weights.
    frozen: Weights,
    adam: AdamW,
    rows: TokenRows,
    order: Order,
    progress: Progress,
    folder: PathBuf,
}

/// Called with the weights now and then; returns a line to print.
pub type Scorer<'a> = &'a dyn Fn(&Network, &Weights) -> Result<String>;

/// Seconds between lines of the log on the terminal when no bar is shown.
const REFRESH: Duration = Duration::from_millis(500);

/// Name of the checkpoint in a run's folder.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// Name of the log in a run's folder.
pub const LOG: &str = "log.jsonl";
/// Name of the picture of the loss in a run's folder, drawn with every checkpoint.
pub const CURVE: &str = "loss.svg";

impl Run {
    /// A run that has not begun.
    ///
    /// # Errors
    /// The weights do not fit the network, or a row fits it or a canvas of the recipe not.
    pub fn new(
        settings: Settings,
        network: Network,
        weights: &Weights,
        rows: TokenRows,
        folder: &Path,
    ) -> Result<Self> {
        network.check(weights)?;
        rows.check(&settings.canvases, network.config())?;
        let (network, trainable, frozen) = match &settings.lora {
            None => (network, weights.clone(), Weights::new()),
            Some(lora) => {
                let adapter = lora.init(&network, settings.seed)?;
                let path = LoraPath { scaling: lora.scaling(), dropout: lora.dropout, key: settings.seed };
                (network.with_lora(path), adapter, weights.clone())
            }
        };
        let variable = |(name, tensor): (&String, _)| anyhow::Ok((name.clone(), Var::from_tensor(tensor)?));
        Ok(Self {
            variables: trainable.iter().map(variable).collect::<Result<_>>()?,
            frozen,
            adam: AdamW::new(settings.adam),
            order: Order::new(settings.seed, rows.len()),
            progress: Progress::default(),
            folder: folder.to_owned(),
            settings,
            network,
            rows,
        })
    }

    /// Go on from the checkpoint in the run's folder.
    ///
    /// # Errors
    /// There is none, or it is of another network.
    pub fn resume(&mut self) -> Result<()> {
        self.progress = checkpoint::load(&self.folder.join(CHECKPOINT), &self.variables, &mut self.adam)?;
        let log = self.folder.join(LOG);
        if !log.exists() {
            return Ok(());
        }
        // Updates after the checkpoint are made again, and logged again.
        let text = std::fs::read_to_string(&log).context("cannot read the log of the run")?;
        let update = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["update"].as_u64();
        let kept = text.lines().filter(|l| update(l).is_some_and(|u| u <= self.progress.updates as u64));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        super::files::replace(&log, |file| Ok(file.write_all(kept.as_bytes())?))
    }

    /// What was trained so far: all weights, or the adapter's.
    pub fn trained(&self) -> Weights {
        self.variables.iter().map(|(name, v)| (name.clone(), v.as_detached_tensor())).collect()
    }

    /// The network's weights as they are now, the adapter merged in.
    ///
    /// # Errors
    /// Never, unless memory runs out: the adapter was made for these weights.
    pub fn weights(&self) -> Result<Weights> {
        match &self.settings.lora {
            None => Ok(self.trained()),
            Some(settings) => lora::merge(&self.frozen, &self.trained(), settings.scaling()),
        }
    }

    /// How far the run is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Train until `until` updates are made (at most those of the settings), with checkpoints on the way and one at
    /// the end.
    ///
    /// # Errors
    /// The loss or a gradient is not finite, or a file cannot be written; the last checkpoint stays as it was.
    pub fn train(&mut self, until: usize, score: Scorer) -> Result<()> {
        let path = self.folder.join(LOG);
        let unwritable = || format!("cannot write the log {}", path.display());
        std::fs::create_dir_all(&self.folder).with_context(unwritable)?;
        let mut log =
            std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(unwritable)?;
        let until = until.min(self.settings.updates);
        let bar = bar(self.progress.updates, self.settings.updates);
        while self.progress.updates < until {
            let began = Instant::now();
            let (loss, norm, tokens) = self.update().with_context(|| {
                format!("update {} failed; the last checkpoint is intact", self.progress.updates + 1)
            })?;
            let seconds = began.elapsed().as_secs_f64();
            self.note(loss, tokens, seconds);
            let p = &self.progress;
            let line = json!({"update": p.updates, "loss": loss, "norm": norm, "rows": p.rows,
                              "tokens_per_second": (tokens as f64 / seconds).round(), "seconds": p.seconds});
            writeln!(log, "{line}").with_context(unwritable)?;
            bar.set_position(p.updates as u64);
            bar.set_message(format!("loss {:.4}, {:.0} tokens/s", p.loss, p.tokens as f64 / p.seconds));
            if p.updates.is_multiple_of(self.settings.checkpoint_every) || p.updates == until {
                self.save()?;
            }
            let every = self.settings.evaluate_every;
            if every > 0 && (p.updates.is_multiple_of(every) || p.updates == until) {
                let scores = score(&self.network, &self.weights()?)?;
                bar.suspend(|| {
                    let (p, at) = (&self.progress, self.progress.seconds);
                    eprintln!("update {} ({at:.0} s, loss {:.4}): {scores}", p.updates, p.loss);
                });
            }
        }
        bar.finish();
        Ok(())
    }

    fn save(&self) -> Result<()> {
        checkpoint::save(&self.folder.join(CHECKPOINT), &self.variables, &self.adam, &self.progress)?;
        curve::write(&self.folder.join(LOG), &self.folder.join(CURVE))
    }

    fn note(&mut self, loss: f64, tokens: usize, seconds: f64) {
        let p = &mut self.progress;
        p.updates += 1;
        p.tokens += tokens as u64;
        p.seconds += seconds;
        p.loss = if p.updates == 1 { loss } else { 0.98 * p.loss + 0.02 * loss };
    }

    /// One update: (loss, norm of the gradients, tokens fed in).
    fn update(&mut self) -> Result<(f64, f64, usize)> {
        let update = self.progress.updates;
        let batches = self.settings.accumulation;
        let (mut loss, mut sum, mut tokens, mut position) = (0.0, Gradients::new(), 0, self.progress.rows);
        for batch in update * batches..(update + 1) * batches {
            let canvas = self.canvas(batch);
            let rows = self.order.take(position, canvas.rows);
            let mut padding = Stream::new(self.settings.seed, Purpose::Padding, &[batch as u64]);
            let truth = match canvas.length {
                Some(length) => self.rows.truth(&rows, length)?,
                None => self.rows.padded(&rows, &mut padding),
            };
            let (part, gradients, passes) = self.gradients(&truth, batch as u64)?;
            loss += part / batches as f64;
            objective::add(&mut sum, &gradients)?;
            tokens += truth.ids.len() * passes;
            position += canvas.rows as u64;
        }
        if !loss.is_finite() {
            bail!("the loss is {loss}");
        }
        if batches > 1 {
            for gradient in sum.values_mut() {
                *gradient = (&*gradient / batches as f64)?;
            }
        }
        let rate = self.settings.adam.rate * self.settings.schedule.share(update, self.settings.updates);
        let norm = self.adam.step(&self.variables, &sum, rate)?;
        self.progress.rows = position;
        Ok((loss, norm, tokens))
    }

    fn canvas(&self, batch: usize) -> Canvas {
        let canvases = &self.settings.canvases;
        let whole: f64 = canvases.iter().map(|c| c.weight).sum();
        let mut at = Stream::new(self.settings.seed, Purpose::Canvas, &[batch as u64]).unit() * whole;
        for canvas in canvases {
            at -= canvas.weight;
            if at < 0.0 {
                return canvas.clone();
            }
        }
        canvases[canvases.len() - 1].clone()
    }

    /// Loss, gradients and number of forward passes for batch number `batch`.
    fn gradients(&self, truth: &Truth, batch: u64) -> Result<(f64, Gradients, usize)> {
        let mut noise = Stream::new(self.settings.seed, Purpose::Noise, &[batch]);
        let mask_id = self.network.config().mask_id;
        let trainable: Weights =
            self.variables.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
        let weights: Weights = self.frozen.clone().into_iter().chain(trainable.clone()).collect();
        let network = |rows: &Range<usize>| self.network.pass(&[batch, rows.start as u64]);
        match &self.settings.objective {
            Objective::Masked(settings) => {
                let drawn = objective::masked::MaskedBatch::draw(truth, mask_id, settings, &mut noise);
                let work = |rows| {
                    let network = network(&rows);
                    drawn.shard(rows).gradients(&network, &weights, &trainable)
                };
                let (loss, gradients) = self.over_shards(truth.rows(), work)?;
                Ok((loss, gradients, 1))
            }
            Objective::Cts(settings) => {
                let drawn = settings.draw(truth, mask_id, &mut noise)?;
                let scored = drawn.scored();
                let work = |rows| {
                    let network = network(&rows);
                    let shard = drawn.shard(rows);
                    let (stages, gradients) =
                        shard.gradients(&network, &weights, &trainable, settings.k_soft, scored)?;
                    Ok((stages.iter().map(|s| s.loss).sum::<f64>() / stages.len() as f64, gradients))
                };
                let (loss, gradients) = self.over_shards(truth.rows(), work)?;
                Ok((loss, gradients, drawn.stages()))
            }
        }
    }

    /// Work on shards of a batch on several threads; losses and gradients are added in the order of the shards, so
    /// that the sum is the same whichever thread was faster.
    fn over_shards(
        &self,
        rows: usize,
        work: impl Fn(Range<usize>) -> Result<(f64, Gradients)> + Sync,
    ) -> Result<(f64, Gradients)> {
        let size = self.settings.shard_rows;
        let count = rows.div_ceil(size);
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut done = Vec::new();
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                if shard >= count {
                    return done;
                }
                done.push((shard, work(shard * size..((shard + 1) * size).min(rows))));
            }
        };
        let mut done: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.settings.threads.min(count)).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().flat_map(|w| w.join().expect("a worker panics only on a bug")).collect()
        });
        done.sort_by_key(|(shard, _)| *shard);
        let (mut loss, mut sum) = (0.0, Gradients::new());
        for (_, outcome) in done {
            let (part, gradients) = outcome?;
            loss += part;
            objective::add(&mut sum, &gradients)?;
        }
        Ok((loss, sum))
    }
}

fn bar(done: usize, updates: usize) -> ProgressBar {
    let bar = ProgressBar::new(updates as u64).with_position(done as u64).with_elapsed(Duration::ZERO);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.expect("the template is constant and valid"));
    bar.enable_steady_tick(REFRESH);
    bar
}
