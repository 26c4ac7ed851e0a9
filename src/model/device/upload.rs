//! One piece of memory to the device per pass: numbers and indices, all as f32.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use super::counts::{Counts, Op};

/// f32 holds every whole number up to this, so indices can travel as f32 and become u32 on the device by one cast.
pub const INDICES: usize = 1 << 24;

/// Where in an upload something lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span(Range<usize>);

impl Span {
    /// How many values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a pass will be told, while it is put together.
#[derive(Debug, Default)]
pub struct Upload {
    numbers: Vec<f32>,
    indices: Vec<f32>,
    /// An index that f32 cannot hold.
    beyond: Option<usize>,
}

impl Upload {
    /// Append numbers.
    pub fn numbers(&mut self, numbers: impl IntoIterator<Item = f32>) -> Span {
        let start = self.numbers.len();
        self.numbers.extend(numbers);
        Span(start..self.numbers.len())
    }

    /// Append indices.
    pub fn indices(&mut self, indices: impl IntoIterator<Item = usize>) -> Span {
        let start = self.indices.len();
        for index in indices {
            if index > INDICES {
                self.beyond = Some(index);
            }
            #[expect(clippy::cast_precision_loss, reason = "checked above")]
            self.indices.push(index as f32);
        }
        Span(start..self.indices.len())
    }

    /// Send it.
    ///
    /// # Errors
    /// An index is too large, or the device fails.
    pub fn send(self, device: &Device, counts: &Counts) -> Result<Uploaded> {
        if let Some(index) = self.beyond {
            candle_core::bail!("index {index} is above {INDICES}, the last one that a pass can name")
        }
        let (numbers, indices) = (self.numbers.len(), self.indices.len());
        let mut all = self.numbers;
        all.extend(self.indices);
        counts.upload(all.len() * size_of::<f32>());
        let all = Tensor::from_vec(all, numbers + indices, device)?;
        counts.add(Op::Cast, 1);
        Ok(Uploaded {
            numbers: all.narrow(0, 0, numbers)?,
            indices: all.narrow(0, numbers, indices)?.to_dtype(DType::U32)?,
        })
    }
}

/// What a pass was told, on the device.
#[derive(Debug)]
pub struct Uploaded {
    numbers: Tensor,
    indices: Tensor,
}

impl Uploaded {
    /// f32 `[n]`. A view.
    ///
    /// # Errors
    /// The span is of another upload.
    pub fn numbers(&self, span: &Span) -> Result<Tensor> {
        self.numbers.narrow(0, span.0.start, span.len())
    }

    /// u32 `[n]`. A view.
    ///
    /// # Errors
    /// The span is of another upload.
    pub fn indices(&self, span: &Span) -> Result<Tensor> {
        self.indices.narrow(0, span.0.start, span.len())
    }
}
