//! Attention of all segments in as many launches as there are groups of alike ones.
//!
//! Queries and K/V are gathered by index into padded groups (`strips`), multiplied batched, and what comes out is gathered
//! back into row order. Heads that share keys and values become rows of one product, so nothing is repeated.

use candle_core::{DType, Result, Tensor};

use super::pool::Pool;
use super::strips::{Group, Most, groups};
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
            let padding = seen[0];
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

    /// Attention of the group: q `[rows of the pass, H * h]`, scaled; kv the layer's pool → `[strips * rows, H * h]`. In f32,
    /// whatever the pool holds. Nothing lives longer than it is needed: what is gathered may be hundreds of megabytes.
    fn attend(
        &self,
        (q, kv): (&Tensor, &Tensor),
        (heads, width): (usize, usize),
        uploaded: &Uploaded,
    ) -> Result<Tensor> {
        let Self { strips, rows, visible, .. } = *self;
        let kv_heads = kv.dim(1)? / (2 * width);
        let share = heads / kv_heads;
        let q = q.index_select(&uploaded.indices(&self.queries)?, 0)?;
        let q = q.reshape((strips, rows, kv_heads, share, width))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((strips * kv_heads, share * rows, width))?;
        let kv = {
            let gathered = kv.index_select(&uploaded.indices(&self.places)?, 0)?.to_dtype(DType::F32)?;
            let by_head =
                gathered.reshape((strips, visible, 2, kv_heads, width))?.permute((2, 0, 3, 1, 4))?;
            by_head.contiguous()?.reshape((2, strips * kv_heads, visible, width))?
        };
        let bias = uploaded.numbers(&self.bias)?.reshape((strips, 1, visible))?;
        let shares = {
            let scores = q.matmul(&kv.get(0)?.t()?)?.reshape((strips, heads * rows, visible))?;
            candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&bias)?)?
        };
        let mixed = shares.reshape((strips * kv_heads, share * rows, visible))?.matmul(&kv.get(1)?)?;
        let mixed = mixed.reshape((strips, kv_heads, share, rows, width))?.permute((0, 3, 1, 2, 4))?;
        mixed.contiguous()?.reshape((strips * rows, heads * width))
    }

    fn count(counts: &Counts, dtype: DType) {
        counts.add(Op::Select, 2);
        counts.add(Op::Cast, usize::from(dtype != DType::F32));
        counts.add(Op::Reorder, 3);
        counts.add(Op::Product, 2);
        counts.add(Op::Broadcast, 1);
        counts.add(Op::Fused, 1);
    }
}

/// What padded attention of a pass is told.
#[derive(Debug)]
pub struct PaddedPlan {
    groups: Vec<GroupPlan>,
    /// `[rows]`: where a row's result lies among those of all groups.
    back: Span,
}

impl PaddedPlan {
    /// For the segments of a pass.
    ///
    /// # Errors
    /// A slot is not open, or a view is outside it.
    pub fn new(segments: &[Segment], pool: &Pool, config: &ModelConfig, upload: &mut Upload) -> Result<Self> {
        let sizes: Vec<_> = segments.iter().map(|segment| (segment.window.len(), segment.visible)).collect();
        let rows = sizes.iter().map(|(rows, _)| rows).sum();
        let groups = groups(&sizes, Most::of(config));
        let (mut back, mut first) = (vec![0; rows], 0);
        for group in &groups {
            for strip in &group.strips {
                for (row, place) in strip.rows.clone().zip(first..) {
                    back[row] = place;
                }
                first += group.rows;
            }
        }
        let back = upload.indices(back);
        let groups = groups.iter().map(|group| GroupPlan::new(group, segments, pool, upload));
        Ok(Self { groups: groups.collect::<Result<_>>()?, back })
    }

    /// q `[rows, H, h]` over a layer's pool → `[rows, H * h]` in f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn attend(
        &self,
        (q, kv): (&Tensor, &Tensor),
        uploaded: &Uploaded,
        counts: &Counts,
    ) -> Result<Tensor> {
        let (rows, heads, width) = q.dims3()?;
        counts.add(Op::Elementwise, 1);
        let q = (q.reshape((rows, heads * width))? * (1.0 / (width as f64).sqrt()))?;
        let groups = self.groups.iter().map(|group| {
            GroupPlan::count(counts, kv.dtype());
            group.attend((&q, kv), (heads, width), uploaded)
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        counts.add(Op::Join, if groups.len() > 1 { groups.len() } else { 0 });
        counts.add(Op::Select, 1);
        Tensor::cat(&groups, 0)?.index_select(&uploaded.indices(&self.back)?, 0)
    }
}
