//! Attention of all segments of a pass over a [`Pool`]: in one call of a kernel for segments of different lengths (`varlen`)
//! where the device has one, else in padded groups (`padded`).

use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::Attend;
use super::flash;
use super::padded::PaddedPlan;
use super::pool::{Destination, Pool};
use super::varlen::VarlenPlan;
use crate::engine::batch::Segment;
use crate::model::ModelConfig;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};

/// How segments of different lengths attend at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ragged {
    /// In groups of alike ones, padded, of products and a soft-max in f32.
    Padded,
    /// In one call of a kernel that takes their lengths: flash-attn's on a GPU, on the CPU a slow one that does the same.
    Varlen,
}

impl Ragged {
    /// What was `asked` for; else the kernel on a GPU that has it for K/V of this type and heads of this width.
    ///
    /// # Errors
    /// The kernel was asked for and cannot be had; says why.
    pub fn on(
        device: &Device,
        dtype: DType,
        width: usize,
        asked: Option<Self>,
    ) -> std::result::Result<Self, String> {
        match asked {
            Some(Self::Padded) => Ok(Self::Padded),
            Some(Self::Varlen) => flash::refuses(device, dtype, width).map_or(Ok(Self::Varlen), Err),
            // The stand-in of the CPU is for tests.
            None if device.is_cpu() => Ok(Self::Padded),
            None => Ok(flash::refuses(device, dtype, width).map_or(Self::Varlen, |reason| {
                tracing::info!(reason, "attention goes in padded groups");
                Self::Padded
            })),
        }
    }
}

#[derive(Debug)]
enum Way {
    Padded(PaddedPlan),
    Varlen(VarlenPlan),
}

/// What attention of a pass will be told.
#[derive(Debug)]
pub struct AttentionPlan {
    /// `[rows]`: places where the rows' K/V go.
    writes: Span,
    way: Way,
}

impl AttentionPlan {
    /// For the segments of a pass.
    ///
    /// # Errors
    /// A slot is not open, or a window or view is outside it, or rows see nothing.
    pub fn new(
        segments: &[Segment],
        pool: &Pool,
        config: &ModelConfig,
        ragged: Ragged,
        upload: &mut Upload,
    ) -> Result<Self> {
        let mut writes = Vec::new();
        for segment in segments {
            if segment.visible == 0 {
                bail!("rows that see nothing");
            }
            writes.extend_from_slice(pool.get(segment.slot)?.places(segment.window.clone())?);
        }
        let writes = upload.indices(writes);
        let way = match ragged {
            Ragged::Padded => Way::Padded(PaddedPlan::new(segments, pool, config, upload)?),
            Ragged::Varlen => Way::Varlen(VarlenPlan::new(segments, pool, config, upload)?),
        };
        Ok(Self { writes, way })
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
        match &self.plan.way {
            Way::Padded(plan) => plan.attend((q, pool), uploaded, counts),
            Way::Varlen(plan) => plan.attend((q, pool), uploaded, counts),
        }
    }
}
