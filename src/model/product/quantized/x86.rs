//! Widening by AVX-512, lane by lane as the portable loops do it and to the same bits. Left to itself the compiler makes
//! vectors across inputs, which gather and scatter.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm512_and_si512, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_slli_epi32, _mm512_srl_epi32, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
    _mm512_sub_ps,
};

use super::super::blocks::ToPairs;
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

/// Two inputs as pairs of bf16, the first in the lower half.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store_pair(first: __m512, second: __m512, to: &mut [u32; PANEL]) {
    // Lane i of the first, which lies in the lower half of the register, then lane i of the second.
    const BESIDE: [u16; 32] = {
        let mut order = [0; 32];
        let mut lane = 0;
        while lane < 16 {
            order[2 * lane] = lane as u16;
            order[2 * lane + 1] = lane as u16 + 16;
            lane += 1;
        }
        order
    };
    // SAFETY: the load is of 32 numbers of 16 bits and the store of 16 of 32; a register of bf16 is its bits.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
        let order = _mm512_loadu_si512(BESIDE.as_ptr().cast());
        _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(order, halves));
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn q8_0(block: &Q8_0, to: &mut [[f32; PANEL]]) {
    let scales = load(&wide(&block.scales));
    for (q, to) in block.q.iter().zip(to) {
        store(_mm512_mul_ps(scales, _mm512_cvtepi32_ps(signed(q))), to);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn q8_0_pairs(block: &Q8_0, to: &mut [[u32; PANEL]]) {
    let scales = load(&wide(&block.scales));
    for (q, to) in block.q.chunks_exact(2).zip(to) {
        let first = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(signed(&q[0])));
        store_pair(first, _mm512_mul_ps(scales, _mm512_cvtepi32_ps(signed(&q[1]))), to);
    }
}

/// Scales and minima of the groups 2 * pair and 2 * pair + 1.
#[target_feature(enable = "avx512f")]
#[inline]
fn q4k_scales(block: &Q4K, pair: usize) -> [(__m512, __m512); 2] {
    let (d, dmin) = (load(&wide(&block.d)), load(&wide(&block.dmin)));
    let mut scales = [(d, dmin); 2];
    for (group, scales) in (2 * pair..).zip(&mut scales) {
        scales.0 = _mm512_mul_ps(d, _mm512_cvtepi32_ps(unsigned(&block.scales[group])));
        scales.1 = _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(unsigned(&block.minima[group])));
    }
    scales
}

/// An input of the even group and one of the odd one.
#[target_feature(enable = "avx512f")]
#[inline]
fn q4k_values(q: &Lanes<u8>, scales: &[(__m512, __m512); 2]) -> [__m512; 2] {
    let both = unsigned(q);
    let low = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
    let high = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both));
    [
        _mm512_sub_ps(_mm512_mul_ps(scales[0].0, low), scales[0].1),
        _mm512_sub_ps(_mm512_mul_ps(scales[1].0, high), scales[1].1),
    ]
}

#[target_feature(enable = "avx512f")]
pub(super) fn q4k(block: &Q4K, to: &mut [[f32; PANEL]]) {
    for (pair, (q, to)) in block.q.iter().zip(to.chunks_exact_mut(64)).enumerate() {
        let scales = q4k_scales(block, pair);
        let (even, odd) = to.split_at_mut(32);
        for ((q, even), odd) in q.iter().zip(even).zip(odd) {
            let values = q4k_values(q, &scales);
            store(values[0], even);
            store(values[1], odd);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn q4k_pairs(block: &Q4K, to: &mut [[u32; PANEL]]) {
    for (pair, (q, to)) in block.q.iter().zip(to.chunks_exact_mut(32)).enumerate() {
        let scales = q4k_scales(block, pair);
        let (even, odd) = to.split_at_mut(16);
        for ((q, even), odd) in q.chunks_exact(2).zip(even).zip(odd) {
            let (first, second) = (q4k_values(&q[0], &scales), q4k_values(&q[1], &scales));
            store_pair(first[0], second[0], even);
            store_pair(first[1], second[1], odd);
        }
    }
}

/// One of a group's 16 inputs.
#[target_feature(enable = "avx512f")]
#[inline]
fn q6k_value(block: &Q6K, scale: __m512, group: usize, input: usize) -> __m512 {
    let (half, quarter, part) = (group / 8, group / 2 % 4, group % 2);
    let low = unsigned(&block.low[half][quarter % 2 * 32 + part * 16 + input]);
    let high = unsigned(&block.high[half][part * 16 + input]);
    let bits = |count: usize| _mm_cvtsi32_si128(i32::try_from(count).expect("a few bits"));
    let low = _mm512_and_si512(_mm512_srl_epi32(low, bits(quarter / 2 * 4)), _mm512_set1_epi32(15));
    let high = _mm512_and_si512(_mm512_srl_epi32(high, bits(quarter * 2)), _mm512_set1_epi32(3));
    let q = _mm512_cvtepi32_ps(_mm512_or_si512(low, _mm512_slli_epi32::<4>(high)));
    _mm512_mul_ps(scale, _mm512_sub_ps(q, _mm512_set1_ps(32.0)))
}

#[target_feature(enable = "avx512f")]
pub(super) fn q6k(block: &Q6K, to: &mut [[f32; PANEL]]) {
    let d = load(&wide(&block.d));
    for (group, to) in to.chunks_exact_mut(16).enumerate() {
        let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(signed(&block.scales[group])));
        for (input, to) in to.iter_mut().enumerate() {
            store(q6k_value(block, scale, group, input), to);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn q6k_pairs(block: &Q6K, to: &mut [[u32; PANEL]]) {
    let d = load(&wide(&block.d));
    for (group, to) in to.chunks_exact_mut(8).enumerate() {
        let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(signed(&block.scales[group])));
        for (pair, to) in to.iter_mut().enumerate() {
            let first = q6k_value(block, scale, group, 2 * pair);
            store_pair(first, q6k_value(block, scale, group, 2 * pair + 1), to);
        }
    }
}

impl ToPairs for Q8_0 {
    unsafe fn pairs512(&self, to: &mut [[u32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { q8_0_pairs(self, to) }
    }
}

impl ToPairs for Q4K {
    unsafe fn pairs512(&self, to: &mut [[u32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { q4k_pairs(self, to) }
    }
}

impl ToPairs for Q6K {
    unsafe fn pairs512(&self, to: &mut [[u32; PANEL]]) {
        // SAFETY: the caller's promise.
        unsafe { q6k_pairs(self, to) }
    }
}
