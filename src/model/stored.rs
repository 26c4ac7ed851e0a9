//! A tensor as it lies in a file: a format, a shape and bytes. Nothing is read or copied until somebody asks for values.

use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::quantized::k_quants::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, GgmlType,
};
use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::{Advice, Mmap, UncheckedAdvice};

/// How numbers are stored. The block formats are those of GGUF files: so many neighbours of a row share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754.
    F16,
    /// 16 bits, the upper half of an f32.
    Bf16,
    /// Blocks of 32: 4 bits, a scale.
    Q4_0,
    /// Blocks of 32: 4 bits, a scale and a minimum.
    Q4_1,
    /// Blocks of 32: 5 bits, a scale.
    Q5_0,
    /// Blocks of 32: 5 bits, a scale and a minimum.
    Q5_1,
    /// Blocks of 32: 8 bits, a scale.
    Q8_0,
    /// Blocks of 256: 4 bits, scales and minima of 6 bits for 32 each.
    Q4K,
    /// Blocks of 256: 5 bits, scales and minima of 6 bits for 32 each.
    Q5K,
    /// Blocks of 256: 6 bits, scales of 8 bits for 16 each.
    Q6K,
}

impl Format {
    /// Values of a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Its usual name: `BF16`, `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Bytes of a row of so many values, or `None` if it is no whole number of blocks.
    pub fn row_bytes(self, values: usize) -> Option<usize> {
        let (block, bytes) = self.block();
        if values.is_multiple_of(block) { (values / block).checked_mul(bytes) } else { None }
    }
}

/// Bytes that somebody keeps: a part of a mapped file, of the binary, or of memory.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mmap>),
    Binary(&'static [u8]),
    Memory(Arc<Vec<u8>>),
}

impl Bytes {
    /// A part of a mapped file.
    ///
    /// # Panics
    /// The file has no such part.
    pub fn mapped(file: &Arc<Mmap>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= file.len(), "a part of the file");
        Self { owner: Owner::Mapped(Arc::clone(file)), range }
    }

    /// A part of this.
    ///
    /// # Panics
    /// There is no such part.
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len(), "a part of the bytes");
        let start = self.range.start;
        Self { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }

    /// Let the system read this part of the file in large pieces, ahead of who needs it.
    pub fn expect(&self) {
        if let Owner::Mapped(file) = &self.owner {
            // A refusal costs time, nothing else.
            let _ = file.advise_range(Advice::WillNeed, self.range.start, self.range.len());
        }
    }

    /// Let the system take back what it read of the file. It reads it again where somebody asks again.
    pub fn release(&self) {
        if let Owner::Mapped(file) = &self.owner {
            // SAFETY: the map is shared with the file and never written, so pages that are dropped come back as they
            // were. A refusal costs memory, nothing else.
            let _ = unsafe {
                file.unchecked_advise_range(UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Binary(bytes), range: 0..bytes.len() }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Memory(Arc::new(bytes)) }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Mapped(file) => file,
            Owner::Binary(bytes) => bytes,
            Owner::Memory(bytes) => bytes,
        };
        &whole[self.range.clone()]
    }
}

/// A tensor in some format; rows lie one after the other.
#[derive(Clone)]
pub struct Stored {
    format: Format,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.format.name(), self.shape)
    }
}

impl Stored {
    /// A tensor of this shape, the last length within a row.
    ///
    /// # Errors
    /// Says why the bytes are not it.
    pub fn new(format: Format, shape: Vec<usize>, bytes: Bytes) -> Result<Self, String> {
        let width = shape.last().copied().unwrap_or(1);
        let row = format
            .row_bytes(width)
            .ok_or_else(|| format!("rows of {width} values are no whole blocks of {}", format.name()))?;
        let outer = shape.iter().rev().skip(1).try_fold(1_usize, |product, n| product.checked_mul(*n));
        match outer.and_then(|rows| rows.checked_mul(row)) {
            Some(size) if size == bytes.len() => Ok(Self { format, shape, bytes }),
            _ => Err(format!("{} bytes are not {} {shape:?}", bytes.len(), format.name())),
        }
    }

    /// The values of a tensor on the CPU, as f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn of_tensor(tensor: &Tensor) -> candle_core::Result<Self> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Self::new(Format::F32, tensor.dims().to_vec(), bytes.into()).map_err(candle_core::Error::msg)
    }

    /// How its numbers are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Its lengths, rows last.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The bytes of row `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        let bytes = self.format.row_bytes(self.width()).expect("checked when it was made");
        &self.bytes[row * bytes..][..bytes]
    }

    /// Row `row` as f32 `[width]`.
    pub fn read_row(&self, row: usize, to: &mut [f32]) {
        widen(self.format, self.row(row), to);
    }

    /// All of it as f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let mut values = vec![0.0; self.shape.iter().product()];
        if !values.is_empty() {
            widen(self.format, &self.bytes, &mut values);
        }
        Tensor::from_vec(values, self.shape.as_slice(), device)
    }

    /// The same in memory of its own, so that no file has to stay as it is.
    #[must_use]
    pub fn into_memory(self) -> Self {
        let bytes = match self.bytes.owner {
            Owner::Mapped(_) => Bytes::from(self.bytes.to_vec()),
            Owner::Binary(_) | Owner::Memory(_) => self.bytes.clone(),
        };
        self.bytes.release();
        Self { bytes, ..self }
    }
}

/// Whole blocks of a format as f32.
///
/// # Panics
/// `bytes` are not so many values.
fn widen(format: Format, bytes: &[u8], to: &mut [f32]) {
    assert_eq!(format.row_bytes(to.len()), Some(bytes.len()), "sizes fit");
    match format {
        Format::F32 => {
            for (from, to) in bytes.chunks_exact(4).zip(to) {
                *to = f32::from_le_bytes(from.try_into().expect("four bytes"));
            }
        }
        Format::F16 => halves(bytes, to, |bits, to| bits.map(f16::from_bits).convert_to_f32_slice(to)),
        Format::Bf16 => halves(bytes, to, |bits, to| bits.map(bf16::from_bits).convert_to_f32_slice(to)),
        Format::Q4_0 => blocks::<BlockQ4_0>(bytes, to),
        Format::Q4_1 => blocks::<BlockQ4_1>(bytes, to),
        Format::Q5_0 => blocks::<BlockQ5_0>(bytes, to),
        Format::Q5_1 => blocks::<BlockQ5_1>(bytes, to),
        Format::Q8_0 => blocks::<BlockQ8_0>(bytes, to),
        Format::Q4K => blocks::<BlockQ4K>(bytes, to),
        Format::Q5K => blocks::<BlockQ5K>(bytes, to),
        Format::Q6K => blocks::<BlockQ6K>(bytes, to),
    }
}

/// 16-bit numbers, sixteen at a time.
fn halves(bytes: &[u8], to: &mut [f32], convert: impl Fn([u16; 16], &mut [f32])) {
    for (from, to) in bytes.chunks(32).zip(to.chunks_mut(16)) {
        let mut bits = [0; 16];
        for (bits, from) in bits.iter_mut().zip(from.chunks_exact(2)) {
            *bits = u16::from_le_bytes([from[0], from[1]]);
        }
        let mut wide = [0.0; 16];
        convert(bits, &mut wide);
        to.copy_from_slice(&wide[..to.len()]);
    }
}

fn blocks<B: GgmlType>(bytes: &[u8], to: &mut [f32]) {
    for (from, to) in bytes.chunks_exact(size_of::<B>()).zip(to.chunks_exact_mut(B::BLCK_SIZE)) {
        let mut block = B::zeros();
        // SAFETY: candle's blocks are plain numbers (`repr(C)`) of this size, for which any bytes are a value.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), (&raw mut block).cast(), size_of::<B>());
        }
        B::to_float(std::slice::from_ref(&block), to);
    }
}
