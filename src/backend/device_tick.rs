//! Ticks on a device. A tick is told everything in one upload, and what it found comes down in one piece; in between the host
//! only launches. How many launches that are does not depend on the number of sequences.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::candidates;
use super::needed::NeededPlan;
use super::reduction::{Found, Reduction};
use super::tick::{Network, Parked, Tick, head_rows, push, sampling};
use crate::engine::batch::{PrefixId, SlotId, StepBatch, StepOutput};
use crate::model::ModelConfig;
use crate::model::device::adapters::AdapterPlan;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};
use crate::model::embedding::MixturePlan;
use crate::model::host;
use crate::model::kv::gathered::{AttentionPlan, Ragged};
use crate::model::kv::pool::Pool;
use crate::model::transformer::Pass;

/// Most bytes of logits at once; the reduction has twice as many beside them.
const LOGITS_BYTES: usize = 512 << 20;

/// A pool of K/V, and a step that is cut.
#[derive(Debug)]
pub(super) struct DeviceTick {
    pool: Pool,
    dtype: DType,
    ragged: Ragged,
    reduction: Reduction,
    head_rows: usize,
    parked: Parked,
}

/// What the layers of a pass are told.
struct LayersPlan {
    positions: Span,
    attention: AttentionPlan,
    adapters: AdapterPlan,
}

/// What a chunk of the needed rows is told.
struct ChunkPlan {
    rows: Range<usize>,
    adapters: AdapterPlan,
    /// The token whose logit is asked for beside the best ones.
    given: Span,
    /// Rows whose logits the host reads, by their number in the chunk.
    of_host: Vec<usize>,
    of_host_rows: Span,
}

/// What the end of a pass is told.
struct HeadPlan {
    needed: NeededPlan,
    chunks: Vec<ChunkPlan>,
}

impl DeviceTick {
    /// With a pool of so many bytes for K/V held as `dtype`.
    ///
    /// # Errors
    /// The device has no memory for it.
    pub(super) fn new(
        config: &ModelConfig,
        (dtype, ragged): (DType, Ragged),
        kv_bytes: usize,
        device: &Device,
    ) -> Result<Self> {
        let head_rows = head_rows(config, LOGITS_BYTES);
        let pool = Pool::reserve(config, dtype, kv_bytes, device)?;
        let reduction = Reduction::new(config.mask_id, head_rows, device)?;
        Ok(Self { pool, dtype, ragged, reduction, head_rows, parked: Parked::default() })
    }

    fn layers_plan(&self, network: &Network, batch: &StepBatch, upload: &mut Upload) -> Result<LayersPlan> {
        let rows = |segment: &crate::engine::batch::Segment| (segment.adapter, segment.window.len());
        let adapters: Vec<_> =
            batch.segments.iter().map(rows).flat_map(|(a, n)| std::iter::repeat_n(a, n)).collect();
        // Checked here: an index that is none ends everything on a GPU, not the pass alone.
        let end = network.model.config().max_positions;
        if let Some(segment) = batch.segments.iter().find(|segment| segment.window.end > end) {
            bail!("positions {:?} are beyond the model's last, {}", segment.window, end - 1)
        }
        Ok(LayersPlan {
            positions: upload.indices(batch.segments.iter().flat_map(|segment| segment.window.clone())),
            attention: AttentionPlan::new(
                &batch.segments,
                &self.pool,
                network.model.config(),
                self.ragged,
                upload,
            )?,
            adapters: AdapterPlan::new(&adapters, upload),
        })
    }

    fn head_plan(
        &mut self,
        config: &ModelConfig,
        batch: &StepBatch,
        upload: &mut Upload,
    ) -> Result<HeadPlan> {
        let needed = NeededPlan::new(batch, config, &mut self.pool, upload)?;
        let rows = |segment: &crate::engine::batch::Segment| (segment.adapter, segment.targets.len());
        let adapters: Vec<_> =
            batch.segments.iter().map(rows).flat_map(|(a, n)| std::iter::repeat_n(a, n)).collect();
        let mut chunks = Vec::new();
        for (chunk, sampling) in sampling(batch).chunks(self.head_rows).enumerate() {
            let rows = chunk * self.head_rows..chunk * self.head_rows + sampling.len();
            let given =
                sampling.iter().map(|row| row.and_then(|row| row.sampling.given).unwrap_or(0) as usize);
            let given: Vec<usize> = given.collect();
            if let Some(token) = given.iter().find(|token| **token >= config.vocab) {
                bail!("token {token} is outside the vocabulary")
            }
            let of_host =
                (0..).zip(sampling).filter(|(_, row)| row.is_some_and(|row| needs_host(row.sampling)));
            let of_host: Vec<usize> = of_host.map(|(row, _)| row).collect();
            chunks.push(ChunkPlan {
                given: upload.indices(given),
                of_host_rows: upload.indices(of_host.iter().copied()),
                adapters: AdapterPlan::new(&adapters[rows.clone()], upload),
                rows,
                of_host,
            });
        }
        Ok(HeadPlan { needed, chunks })
    }

    fn layers(
        &self,
        network: &Network,
        (plan, uploaded): (&LayersPlan, &Uploaded),
        hidden: Tensor,
        layers: Range<usize>,
    ) -> Result<Tensor> {
        let counts = network.model.counts();
        let memory = &plan.attention.over(&self.pool, uploaded, counts)?;
        let adapters = &plan.adapters.rows(network.adapters, uploaded, counts)?;
        let pass = Pass { positions: uploaded.indices(&plan.positions)?, memory, adapters };
        network.model.run(hidden, &pass, layers)
    }

    /// The logits of a chunk of needed rows.
    fn logits_of(
        &self,
        network: &Network,
        (chunk, uploaded): (&ChunkPlan, &Uploaded),
        needed: &Tensor,
    ) -> Result<Tensor> {
        let adapters = chunk.adapters.rows(network.adapters, uploaded, network.model.counts())?;
        network.model.logits(&needed.narrow(0, chunk.rows.start, chunk.rows.len())?, &adapters)
    }

    /// What the final hidden rows say of the needed rows.
    fn candidates(
        &self,
        network: &Network,
        batch: &StepBatch,
        (plan, uploaded): (&HeadPlan, &Uploaded),
        hidden: &Tensor,
    ) -> Result<StepOutput> {
        let (config, counts) = (network.model.config(), network.model.counts());
        let top_k = batch.top_k.clamp(1, config.vocab - 1);
        let mut output = StepOutput { top_k, ..StepOutput::default() };
        if plan.chunks.is_empty() {
            return Ok(output);
        }
        let needed = plan.needed.rows(hidden, &self.pool, uploaded, counts)?;
        let sampling = sampling(batch);
        let (mut found, mut of_host) = (Vec::new(), Vec::new());
        for chunk in &plan.chunks {
            let logits = self.logits_of(network, (chunk, uploaded), &needed)?;
            if !chunk.of_host.is_empty() {
                let wishes: Vec<_> =
                    chunk.of_host.iter().map(|row| sampling[chunk.rows.start + row]).collect();
                counts.add(Op::Select, 1);
                let own = logits.index_select(&uploaded.indices(&chunk.of_host_rows)?, 0)?;
                let own = download(&own, counts)?;
                let rows = candidates::candidates(&own, config.mask_id, top_k, &wishes);
                of_host.extend(chunk.of_host.iter().map(|row| chunk.rows.start + row).zip(rows));
            }
            found.push(self.reduction.reduce(logits, &uploaded.indices(&chunk.given)?, top_k, counts)?);
        }
        counts.add(Op::Join, if found.len() > 1 { found.len() } else { 0 });
        let found = Found::new(download(&Tensor::cat(&found, 0)?, counts)?, top_k);
        let mut of_host = of_host.into_iter().peekable();
        for (row, sampling) in sampling.iter().enumerate() {
            let given = sampling.and_then(|row| row.sampling.given);
            push(
                &mut output,
                match of_host.next_if(|(own, _)| *own == row) {
                    Some((_, candidates)) => candidates,
                    None => found.row(row, given),
                },
            );
        }
        Ok(output)
    }
}

/// Whether a row's logits are changed or drawn from, which the host does.
fn needs_host(sampling: &crate::engine::batch::Sampling) -> bool {
    sampling.adjustment.is_some() || (sampling.temperature > 0.0 && sampling.given.is_none())
}

/// A tensor's f32 values, in host memory.
fn download(tensor: &Tensor, counts: &Counts) -> Result<Vec<f32>> {
    counts.download(tensor.elem_count() * size_of::<f32>());
    host::read(tensor, <[f32]>::to_vec)
}

impl Tick for DeviceTick {
    fn bytes_per_position(&self, config: &ModelConfig) -> usize {
        Pool::bytes_per_position(config, self.dtype)
    }

    fn open(&mut self, slot: SlotId, _: &ModelConfig, canvas: usize) -> Result<()> {
        self.pool.open(slot, canvas)
    }

    fn close(&mut self, slot: SlotId) {
        self.pool.close(slot);
        self.parked.close(slot);
    }

    fn keep(
        &mut self,
        network: &Network,
        prefix: PrefixId,
        slot: SlotId,
        stretch: &Range<usize>,
    ) -> Result<()> {
        self.pool.keep(prefix, slot, stretch, network.model.counts())
    }

    fn restore(&mut self, network: &Network, prefix: PrefixId, slot: SlotId) -> Result<()> {
        self.pool.restore(prefix, slot, network.model.counts())
    }

    fn forget(&mut self, prefix: PrefixId) {
        self.pool.forget(prefix);
    }

    fn run(
        &mut self,
        network: &Network,
        batch: &StepBatch,
        layers: Range<usize>,
    ) -> Result<Option<StepOutput>> {
        let Network { model, .. } = network;
        let (config, counts) = (model.config(), model.counts());
        let (begins, ends) = (layers.start == 0, layers.end == config.layers);
        // A GPU refuses to launch anything for no rows.
        if batch.rows() == 0 {
            return Ok(ends.then(StepOutput::default));
        }
        let mut upload = Upload::default();
        let mixture = begins.then(|| MixturePlan::new(batch, model.embedding(), &mut upload)).transpose()?;
        let plan = self.layers_plan(network, batch, &mut upload)?;
        let head = if ends { Some(self.head_plan(config, batch, &mut upload)?) } else { None };
        let uploaded = upload.send(model.device(), counts)?;
        let hidden = match mixture {
            Some(mixture) => mixture.mix(model.embedding(), &uploaded, counts)?,
            None => self.parked.take(batch)?,
        };
        let hidden = self.layers(network, (&plan, &uploaded), hidden, layers)?;
        let Some(head) = head else {
            self.parked.put(batch, hidden);
            return Ok(None);
        };
        self.candidates(network, batch, (&head, &uploaded), &model.finish(&hidden)?).map(Some)
    }

    fn logits(&mut self, network: &Network, batch: &StepBatch) -> Result<Vec<Vec<f32>>> {
        let Network { model, .. } = network;
        let (config, counts) = (model.config(), model.counts());
        if batch.rows() == 0 {
            return Ok(Vec::new());
        }
        let mut upload = Upload::default();
        let mixture = MixturePlan::new(batch, model.embedding(), &mut upload)?;
        let plan = self.layers_plan(network, batch, &mut upload)?;
        let head = self.head_plan(config, batch, &mut upload)?;
        let uploaded = upload.send(model.device(), counts)?;
        let hidden = mixture.mix(model.embedding(), &uploaded, counts)?;
        let hidden = self.layers(network, (&plan, &uploaded), hidden, 0..config.layers)?;
        if head.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let needed = head.needed.rows(&model.finish(&hidden)?, &self.pool, &uploaded, counts)?;
        let mut rows = Vec::new();
        for chunk in &head.chunks {
            let logits = download(&self.logits_of(network, (chunk, &uploaded), &needed)?, counts)?;
            rows.extend(logits.chunks_exact(config.vocab).map(<[f32]>::to_vec));
        }
        Ok(rows)
    }
}
