//! Attention of all segments of a pass over a [`Pool`], in as many launches as there are groups of alike segments.
//!
//! Queries and K/V are gathered by index into padded groups (`strips`), multiplied batched, and what comes out is gathered
//! back into row order. Heads that share keys and values become rows of one product, so nothing is repeated. A kernel for
//! segments of different lengths (flash-attn's `varlen`) would take the place of `GatheredAttention::group`.

use candle_core::{D, DType, Result, Tensor};

use super::Attend;
use super::pool::{Destination, Pool};
use super::strips::{Group, SCORES, groups};
use crate::engine::batch::Segment;
use crate::model::ModelConfig;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};

/// Where the pieces of a group are.
#[derive(Debug)]
struct GroupPlan {
    strips: usize,
    rows: usize,
    visible: usize,
    /// `[strips * rows]`: packed rows.
    queries: Span,
    /// `[strips * visible]`: places of the pool.
    places: Span,
    /// `[strips * visible]`: 0, or -inf where it is padding.
    bias: Span,
}

impl GroupPlan {
    fn new(group: &Group, segments: &[Segment], pool: &Pool, upload: &mut Upload) -> Result<Self> {
        let Group { strips, rows, visible } = group;
        let queries = strips.iter().flat_map(|strip| {
            let padding = std::iter::repeat_n(strip.rows.start, rows - strip.rows.len());
            strip.rows.clone().chain(padding)
        });
        let queries = upload.indices(queries);
        let mut places = Vec::with_capacity(strips.len() * visible);
        for strip in strips {
            let seen = pool.get(segments[strip.segment].slot)?.places(0..strip.visible)?;
            // Padding is a place that the strip sees anyhow: whatever other slots hold, it cannot spoil a sum as 0 * NaN.
            let padding = seen.first().copied().unwrap_or(0);
            places.extend_from_slice(seen);
            places.extend(std::iter::repeat_n(padding, visible - seen.len()));
        }
        let bias = strips.iter().flat_map(|strip| {
            let seen = std::iter::repeat_n(0.0, strip.visible);
            seen.chain(std::iter::repeat_n(f32::NEG_INFINITY, visible - strip.visible))
        });
        let bias = upload.numbers(bias);
        let places = upload.indices(places);
        Ok(Self { strips: strips.len(), rows: *rows, visible: *visible, queries, places, bias })
    }
}

/// What attention of a pass will be told.
#[derive(Debug)]
pub struct AttentionPlan {
    /// `[rows]`: places where the rows' K/V go.
    writes: Span,
    groups: Vec<GroupPlan>,
    /// `[rows]`: where a row's result lies among those of all groups.
    back: Span,
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
        let sizes: Vec<_> = segments.iter().map(|segment| (segment.window.len(), segment.visible)).collect();
        let groups = groups(&sizes, config.heads, SCORES);
        let (mut back, mut first) = (vec![0; writes.len()], 0);
        for group in &groups {
            for strip in &group.strips {
                for (row, place) in strip.rows.clone().zip(first..) {
                    back[row] = place;
                }
                first += group.rows;
            }
        }
        let (writes, back) = (upload.indices(writes), upload.indices(back));
        let groups = groups.iter().map(|group| GroupPlan::new(group, segments, pool, upload));
        Ok(Self { writes, groups: groups.collect::<Result<_>>()?, back })
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

impl GatheredAttention<'_> {
    /// Attention of one group: q `[rows, H * h]` of the pass, scaled; kv the layer's pool → `[strips * rows, H * h]`. In f32,
    /// whatever the pool holds.
    fn group(
        &self,
        plan: &GroupPlan,
        q: &Tensor,
        kv: &Tensor,
        (heads, width): (usize, usize),
    ) -> Result<Tensor> {
        let GroupPlan { strips, rows, visible, .. } = *plan;
        let kv_heads = kv.dim(1)? / (2 * width);
        let share = heads / kv_heads;
        self.count_group(kv.dtype());
        let q = q.index_select(&self.uploaded.indices(&plan.queries)?, 0)?;
        let q = q.reshape((strips, rows, kv_heads, share, width))?.permute((0, 2, 3, 1, 4))?;
        let q = q.contiguous()?.reshape((strips * kv_heads, share * rows, width))?;
        let kv = kv.index_select(&self.uploaded.indices(&plan.places)?, 0)?.to_dtype(DType::F32)?;
        let kv = kv.reshape((strips, visible, 2, kv_heads, width))?.permute((2, 0, 3, 1, 4))?;
        let kv = kv.contiguous()?.reshape((2, strips * kv_heads, visible, width))?;
        let (k, v) = (kv.get(0)?, kv.get(1)?);
        let scores = q.matmul(&k.t()?)?.reshape((strips, heads * rows, visible))?;
        let bias = self.uploaded.numbers(&plan.bias)?.reshape((strips, 1, visible))?;
        let shares = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&bias)?)?;
        let mixed = shares.reshape((strips * kv_heads, share * rows, visible))?.matmul(&v)?;
        let mixed = mixed.reshape((strips, kv_heads, share, rows, width))?.permute((0, 3, 1, 2, 4))?;
        mixed.contiguous()?.reshape((strips * rows, heads * width))
    }

    fn count_group(&self, dtype: DType) {
        self.counts.add(Op::Select, 2);
        self.counts.add(Op::Cast, usize::from(dtype != DType::F32));
        self.counts.add(Op::Reorder, 3);
        self.counts.add(Op::Product, 2);
        self.counts.add(Op::Broadcast, 1);
        self.counts.add(Op::Fused, 1);
    }
}

impl Attend for GatheredAttention<'_> {
    fn attend(&self, layer: usize, (q, k, v): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let (rows, heads, width) = q.dims3()?;
        let pool = self.pool.layer(layer);
        let flat = |x: &Tensor| x.reshape((rows, x.dim(1)? * width));
        let kv = Tensor::cat(&[flat(k)?, flat(v)?], D::Minus1)?.to_dtype(pool.dtype())?;
        self.counts.add(Op::Join, 2);
        self.counts.add(Op::Cast, usize::from(pool.dtype() != DType::F32));
        // Everybody's K/V are there before anybody attends.
        self.writes.write(&kv, pool, self.counts)?;
        self.counts.add(Op::Elementwise, 1);
        let q = (flat(q)? * (1.0 / (width as f64).sqrt()))?;
        let groups = self.plan.groups.iter().map(|group| self.group(group, &q, pool, (heads, width)));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        self.counts.add(Op::Join, if groups.len() > 1 { groups.len() } else { 0 });
        self.counts.add(Op::Select, 1);
        Tensor::cat(&groups, 0)?.index_select(&self.uploaded.indices(&self.plan.back)?, 0)
    }
}
