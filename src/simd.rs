//! Loops that the compiler can vectorise: sums in lanes, a polynomial exponential, and a choice of registers at run time.
//! All of them give the same bits: the order of every sum is written out, and nothing is contracted.

/// A loop nest that is compiled for the baseline, for AVX2 and for AVX-512.
pub(crate) trait Kernel {
    /// What it finds.
    type Found;

    /// Run it. Implementations are `#[inline(always)]`, or the wide copies would call the baseline one.
    fn run(self) -> Self::Found;
}

/// Run a kernel with the widest registers at hand.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Found {
    #[cfg(target_arch = "x86_64")]
    if !cfg!(feature = "portable") {
        #[target_feature(enable = "avx2,fma")]
        fn wide<K: Kernel>(kernel: K) -> K::Found {
            kernel.run()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        fn widest<K: Kernel>(kernel: K) -> K::Found {
            kernel.run()
        }
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the features were just detected.
            return unsafe { widest(kernel) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: both features were just detected.
            return unsafe { wide(kernel) };
        }
    }
    kernel.run()
}

/// e^x with a relative error below 3e-7 (Cephes' expf without branches), clamped to the finite range.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * r + c;
    }
    let scale = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(scale)
}

const LANES: usize = 16;

/// Sum of the products of two equally long slices, in lanes (a fixed order, so results repeat).
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Replace each x by e^(x - shift); returns their sum.
#[inline(always)]
pub(crate) fn exp_sum(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - shift);
            *lane += *x;
        }
    }
    let mut tail = 0.0;
    for x in chunks.into_remainder() {
        *x = exp(*x - shift);
        tail += *x;
    }
    lanes.iter().sum::<f32>() + tail
}

/// Largest value.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > lane { *x } else { *lane };
        }
    }
    lanes.iter().copied().fold(tail, f32::max)
}

/// `to += a * x`.
#[inline(always)]
pub(crate) fn axpy(to: &mut [f32], a: f32, x: &[f32]) {
    for (t, x) in to.iter_mut().zip(x) {
        *t += a * x;
    }
}

/// RMSNorm of rows of `w.len()` values: w * x / sqrt(mean(x^2) + eps).
pub(crate) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let d = self.w.len();
        for (x, out) in self.x.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            let scale = 1.0 / (dot(x, x) / d as f32 + self.eps).sqrt();
            for (out, (x, w)) in out.iter_mut().zip(x.iter().zip(self.w)) {
                *out = x * scale * w;
            }
        }
    }
}

/// silu(gate) * up.
pub(crate) struct SwiGlu<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        for ((out, g), u) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}

/// Heads `[heads, h]` of one row turned by the row's angles `[h/2]`: component i is paired with i + h/2.
pub(crate) struct Rotate<'a> {
    pub x: &'a [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let half = self.cos.len();
        for (x, out) in self.x.chunks_exact(2 * half).zip(self.out.chunks_exact_mut(2 * half)) {
            let ((a, b), (left, right)) = (x.split_at(half), out.split_at_mut(half));
            let angles = self.cos.iter().zip(self.sin);
            for (((left, right), (a, b)), (cos, sin)) in
                left.iter_mut().zip(right).zip(a.iter().zip(b)).zip(angles)
            {
                *left = a * cos - b * sin;
                *right = b * cos + a * sin;
            }
        }
    }
}
