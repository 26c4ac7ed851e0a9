//! Attention of all segments of a pass over a [`Pool`], in padded groups (`padded`).

use candle_core::{D, DType, Result, Tensor};

use super::Attend;
use super::padded::PaddedPlan;
use super::pool::{Destination, Pool};
use crate::engine::batch::Segment;
use crate::model::ModelConfig;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};

/// What attention of a pass will be told.
#[derive(Debug)]
pub struct AttentionPlan {
    /// `[rows]`: places where the rows' K/V go.
    writes: Span,
    padded: PaddedPlan,
}

impl AttentionPlan {
    /// For the segments of a pass.
    ///
    /// # Errors
    /// A slot is not open, or a window or view is outside it.
    pub fn new(segments: &[Segment], pool: &Pool, config: &ModelConfig, upload: &mut Upload) -> Result<Self> {
        let mut writes = Vec::new();
        for segment in segments {
            writes.extend_from_slice(pool.get(segment.slot)?.places(segment.window.clone())?);
        }
        let writes = upload.indices(writes);
        Ok(Self { writes, padded: PaddedPlan::new(segments, pool, config, upload)? })
    }

    /// With what was uploaded.
    ///
    /// # Errors
    /// The device fails.
    pub fn over<'a>(
        &'a self,
        pool: &'a Pool,
        uploaded: &'a Uploaded,
        counts: &'a Counts,
    ) -> Result<GatheredAttention<'a>> {
        let width = pool.layer(0).dim(1)?;
        let writes = Destination::new(uploaded, &self.writes, width, counts)?;
        Ok(GatheredAttention { plan: self, pool, uploaded, counts, writes })
    }
}

/// A pool as one pass sees it.
pub struct GatheredAttention<'a> {
    plan: &'a AttentionPlan,
    pool: &'a Pool,
    uploaded: &'a Uploaded,
    counts: &'a Counts,
    writes: Destination,
}

impl Attend for GatheredAttention<'_> {
    fn attend(&self, layer: usize, (q, k, v): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let (rows, _, width) = q.dims3()?;
        let Self { uploaded, counts, .. } = self;
        let pool = self.pool.layer(layer);
        let flat = |x: &Tensor| x.reshape((rows, x.dim(1)? * width));
        let kv = Tensor::cat(&[flat(k)?, flat(v)?], D::Minus1)?.to_dtype(pool.dtype())?;
        counts.add(Op::Join, 2);
        counts.add(Op::Cast, usize::from(pool.dtype() != DType::F32));
        // Everybody's K/V are there before anybody attends.
        self.writes.write(&kv, pool, counts)?;
        self.plan.padded.attend((q, pool), uploaded, counts)
    }
}
