//! Widening by AVX-512, lane by lane as the portable loops do it and to the same bits. Left to itself the compiler makes
//! vectors across inputs, which gather and scatter.

use std::arch::x86_64::{
    __m512, __m512i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm512_and_si512, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_srl_epi32, _mm512_srli_epi32,
    _mm512_storeu_ps, _mm512_sub_ps,
};

use super::{Lanes, PANEL, Q4K, Q6K, Q8_0, wide};

/// Sixteen bytes as numbers without a sign.
#[target_feature(enable = "avx512f")]
fn unsigned(bytes: &Lanes<u8>) -> __m512i {
    // SAFETY: the load is of sixteen bytes.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

/// Sixteen bytes as numbers with a sign.
#[target_feature(enable = "avx512f")]
fn signed(bytes: &Lanes<i8>) -> __m512i {
    // SAFETY: the load is of sixteen bytes.
    unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

#[target_feature(enable = "avx512f")]
fn load(lanes: &Lanes<f32>) -> __m512 {
    // SAFETY: the load is of sixteen numbers.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(lanes: __m512, to: &mut [f32; PANEL]) {
    // SAFETY: the store is of sixteen numbers.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn q8_0(block: &Q8_0, to: &mut [[f32; PANEL]]) {
    let scales = load(&wide(&block.scales));
    for (q, to) in block.q.iter().zip(to) {
        store(_mm512_mul_ps(scales, _mm512_cvtepi32_ps(signed(q))), to);
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn q4k(block: &Q4K, to: &mut [[f32; PANEL]]) {
    let (d, dmin) = (load(&wide(&block.d)), load(&wide(&block.dmin)));
    let scale = |group: usize| _mm512_mul_ps(d, _mm512_cvtepi32_ps(unsigned(&block.scales[group])));
    let minimum = |group: usize| _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(unsigned(&block.minima[group])));
    for (pair, (q, to)) in block.q.iter().zip(to.chunks_exact_mut(64)).enumerate() {
        let (scales, minima) =
            ([scale(2 * pair), scale(2 * pair + 1)], [minimum(2 * pair), minimum(2 * pair + 1)]);
        let (even, odd) = to.split_at_mut(32);
        for ((q, even), odd) in q.iter().zip(even).zip(odd) {
            let both = unsigned(q);
            let low = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
            let high = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both));
            store(_mm512_sub_ps(_mm512_mul_ps(scales[0], low), minima[0]), even);
            store(_mm512_sub_ps(_mm512_mul_ps(scales[1], high), minima[1]), odd);
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn q6k(block: &Q6K, to: &mut [[f32; PANEL]]) {
    let d = load(&wide(&block.d));
    for (group, to) in to.chunks_exact_mut(16).enumerate() {
        let (half, quarter, part) = (group / 8, group / 2 % 4, group % 2);
        let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(signed(&block.scales[group])));
        let bits = |count: usize| _mm_cvtsi32_si128(i32::try_from(count).expect("a few bits"));
        let (low_bits, high_bits) = (bits(quarter / 2 * 4), bits(quarter * 2));
        let low = &block.low[half][quarter % 2 * 32 + part * 16..][..16];
        let high = &block.high[half][part * 16..][..16];
        for ((low, high), to) in low.iter().zip(high).zip(to) {
            let low = _mm512_and_si512(_mm512_srl_epi32(unsigned(low), low_bits), _mm512_set1_epi32(15));
            let high = _mm512_and_si512(_mm512_srl_epi32(unsigned(high), high_bits), _mm512_set1_epi32(3));
            let q = _mm512_cvtepi32_ps(_mm512_or_si512(low, _mm512_slli_epi32::<4>(high)));
            store(_mm512_mul_ps(scale, _mm512_sub_ps(q, _mm512_set1_ps(32.0))), to);
        }
    }
}
