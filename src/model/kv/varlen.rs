//! Attention of segments of different lengths as a kernel for such takes them: queries in row order, the places that each
//! segment sees one after the other, and where each segment begins among both. K/V are gathered; nothing is padded, and no
//! scores are held.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use super::flash::{self, Lengths};
use super::pool::Pool;
use super::strips::Most;
use crate::engine::batch::Segment;
use crate::model::ModelConfig;
use crate::model::device::{Counts, Op, Span, Upload, Uploaded};

/// Segments that attend in one call.
#[derive(Debug)]
struct CallPlan {
    /// Packed rows.
    rows: Range<usize>,
    /// Places of the pool that the segments see.
    places: Span,
    /// `[segments + 1]`: where each one's rows begin, and the end.
    row_starts: Span,
    /// `[segments + 1]`: the same of its places.
    place_starts: Span,
    /// Rows of the longest window, and places of the widest view.
    longest: (usize, usize),
}

/// What the attention of a pass is told.
#[derive(Debug)]
pub struct VarlenPlan(Vec<CallPlan>);

impl VarlenPlan {
    /// For the segments of a pass: one call, or as many as keep what is gathered within [`Most`]; a single segment may see
    /// more.
    ///
    /// # Errors
    /// A slot is not open, or a view is outside it.
    pub fn new(segments: &[Segment], pool: &Pool, config: &ModelConfig, upload: &mut Upload) -> Result<Self> {
        Self::within(Most::of(config).places, segments, pool, upload)
    }

    fn within(most: usize, segments: &[Segment], pool: &Pool, upload: &mut Upload) -> Result<Self> {
        let (mut calls, mut rest, mut first_row) = (Vec::new(), segments, 0);
        while !rest.is_empty() {
            let (own, others) = rest.split_at(taken(rest, most));
            let call = CallPlan::new(own, first_row, pool, upload)?;
            (rest, first_row) = (others, call.rows.end);
            calls.push(call);
        }
        Ok(Self(calls))
    }

    /// q `[rows, H, h]` over a layer's pool → `[rows, H * h]` in f32, from K/V and queries in the pool's type.
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
        let casts = usize::from(kv.dtype() != DType::F32);
        counts.add(Op::Cast, casts);
        let q = q.to_dtype(kv.dtype())?;
        let calls = self.0.iter().map(|call| {
            counts.add(Op::Select, 1);
            counts.add(Op::Varlen, 1);
            call.attend(&q, kv, uploaded)
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        counts.add(Op::Join, if calls.len() > 1 { calls.len() } else { 0 });
        counts.add(Op::Cast, casts);
        Tensor::cat(&calls, 0)?.to_dtype(DType::F32)?.reshape((rows, heads * width))
    }
}

/// Most segments of a call: a grid of the GPU's kernel has no more blocks in this dimension.
const SEGMENTS: usize = 65_535;

/// How many of the first segments see `most` places together at most; one at least.
fn taken(segments: &[Segment], most: usize) -> usize {
    let sums = segments.iter().scan(0, |sum, segment| {
        *sum += segment.visible;
        Some(*sum)
    });
    sums.take(SEGMENTS).take_while(|sum| *sum <= most).count().max(1)
}

impl CallPlan {
    fn new(segments: &[Segment], first_row: usize, pool: &Pool, upload: &mut Upload) -> Result<Self> {
        let (mut places, mut row_starts, mut place_starts) = (Vec::new(), vec![0], vec![0]);
        let (mut rows, mut longest) = (0, (0, 0));
        for Segment { slot, window, visible, .. } in segments {
            places.extend_from_slice(pool.get(*slot)?.places(0..*visible)?);
            rows += window.len();
            row_starts.push(rows);
            place_starts.push(places.len());
            longest = (longest.0.max(window.len()), longest.1.max(*visible));
        }
        Ok(Self {
            rows: first_row..first_row + rows,
            places: upload.indices(places),
            row_starts: upload.indices(row_starts),
            place_starts: upload.indices(place_starts),
            longest,
        })
    }

    /// q `[rows of the pass, H, h]`, kv the layer's pool → `[rows, H, h]`, all in one type.
    fn attend(&self, q: &Tensor, kv: &Tensor, uploaded: &Uploaded) -> Result<Tensor> {
        let width = q.dim(2)?;
        let kv_heads = kv.dim(1)? / (2 * width);
        let kv = kv.index_select(&uploaded.indices(&self.places)?, 0)?;
        // Keys and values stay where they are, in every other half of the gathered rows.
        let kv = kv.reshape((self.places.len(), 2 * kv_heads, width))?;
        let lengths = Lengths {
            row_starts: uploaded.indices(&self.row_starts)?,
            place_starts: uploaded.indices(&self.place_starts)?,
            longest: self.longest,
        };
        let q = q.narrow(0, self.rows.start, self.rows.len())?;
        flash::attend((&q, &kv.narrow(1, 0, kv_heads)?, &kv.narrow(1, kv_heads, kv_heads)?), &lengths)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::engine::batch::SlotId;
    use crate::model::bundled;
    use crate::model::kv::padded::PaddedPlan;
    use crate::rng;

    fn segment(index: u32, rows: usize, visible: usize) -> Segment {
        let slot = SlotId { index, generation: 0 };
        Segment { slot, adapter: None, window: 0..rows, visible, targets: 0..0, sampling: None }
    }

    #[test]
    fn a_call_takes_as_many_segments_as_see_little_enough_and_never_none() {
        let all: Vec<_> = [5, 3, 4, 30, 1].map(|visible| segment(0, 1, visible)).into();
        assert_eq!((taken(&all, 8), taken(&all[2..], 8), taken(&all[3..], 8)), (2, 1, 1));
        assert_eq!((taken(&all, 1000), taken(&all[4..], 8)), (5, 1));
    }

    #[test]
    fn one_call_several_calls_and_padded_groups_say_the_same() {
        let config = ModelConfig::load(&bundled::COUNTDOWN).unwrap();
        let noise = |seed, shape: &[usize]| {
            let key = rng::key(&[seed]);
            let count = shape.iter().product::<usize>() as u64;
            let values: Vec<f32> = (0..count).map(|i| 4.0 * rng::uniform(key, i) as f32 - 2.0).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        // Slots in no order of their segments, windows and views of all lengths.
        let segments = [(2, 3, 9), (0, 1, 17), (1, 16, 16), (2, 1, 1), (3, 5, 40)]
            .map(|(slot, rows, visible)| segment(slot, rows, visible));
        let mut pool = Pool::reserve(&config, DType::F32, 1 << 20, &Device::Cpu).unwrap();
        for index in 0..4 {
            pool.open(SlotId { index, generation: 0 }, 40).unwrap();
        }
        let kv = pool.layer(0);
        kv.slice_set(&noise(1, kv.dims()), 0, 0).unwrap();
        let q = noise(2, &[26, config.heads, config.head_width()]);
        let counts = Counts::default();
        let varlen = |most| {
            let mut upload = Upload::default();
            let plan = VarlenPlan::within(most, &segments, &pool, &mut upload).unwrap();
            let uploaded = upload.send(&Device::Cpu, &counts).unwrap();
            let mixed = plan.attend((&q, kv), &uploaded, &counts).unwrap();
            (plan.0.len(), mixed.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let (calls, whole) = varlen(1000);
        assert_eq!(calls, 1);
        for (most, calls) in [(26, 3), (42, 2), (1, 5)] {
            assert_eq!(varlen(most), (calls, whole.clone()), "at most {most} places a call");
        }
        let mut upload = Upload::default();
        let plan = PaddedPlan::new(&segments, &pool, &config, &mut upload).unwrap();
        let uploaded = upload.send(&Device::Cpu, &counts).unwrap();
        let padded = plan.attend((&q, kv), &uploaded, &counts).unwrap();
        let padded = padded.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(padded.len(), whole.len());
        let far = std::iter::zip(&padded, &whole).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far < 1e-5, "{far}");
    }
}
