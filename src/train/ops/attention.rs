//! Bidirectional attention with rotary positions.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};

use super::{elements, fused};
use crate::simd::{self, Kernel, axpy, dot};

/// How the rows of q, k and v fall into sequences and heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Positions per sequence, T; the matrices hold whole sequences one after the other.
    pub len: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key/value heads, G; query head i reads key/value head i / (H / G).
    pub kv_heads: usize,
    /// Width of a head, h.
    pub width: usize,
    /// Base of the rotary angles.
    pub theta: f64,
}

impl Heads {
    /// cos and sin of position * theta^(-2i/h), each [T, h/2].
    fn angles(&self) -> (Vec<f32>, Vec<f32>) {
        let half = self.width / 2;
        let angle = |n: usize| {
            let (t, i) = ((n / half) as f64, (n % half) as f64);
            t * self.theta.powf(-2.0 * i / self.width as f64)
        };
        let n = self.len * half;
        ((0..n).map(|n| angle(n).cos() as f32).collect(), (0..n).map(|n| angle(n).sin() as f32).collect())
    }
}

/// softmax(rot(q) rot(k)^T / sqrt(h)) v: q [B*T, H*h], k and v [B*T, G*h]; [B*T, H*h].
///
/// # Errors
/// The shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    if fused(q) {
        return q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Attention(heads));
    }
    composed(q, k, v, heads)
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, s: Heads) -> Result<Tensor> {
    let rows = q.dim(0)? / s.len;
    let (cos, sin) = s.angles();
    let angle = |a: Vec<f32>| Tensor::from_vec(a, (s.len, s.width / 2), q.device())?.to_dtype(q.dtype());
    let (cos, sin) = (angle(cos)?, angle(sin)?);
    let split = |x: &Tensor, n: usize| x.reshape((rows, s.len, n, s.width))?.transpose(1, 2)?.contiguous();
    let rotate = |x: Tensor| -> Result<Tensor> {
        let half = s.width / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[left, right], D::Minus1)
    };
    let repeat = |x: Tensor| -> Result<Tensor> {
        let group = s.heads / s.kv_heads;
        let wide = x.unsqueeze(2)?.broadcast_as((rows, s.kv_heads, group, s.len, s.width))?;
        wide.reshape((rows, s.heads, s.len, s.width))?.contiguous()
    };
    let q = rotate(split(q, s.heads)?)?;
    let k = repeat(rotate(split(k, s.kv_heads)?)?)?;
    let v = repeat(split(v, s.kv_heads)?)?;
    let scores = (q.matmul(&k.t()?)? * (1.0 / (s.width as f64).sqrt()))?.to_dtype(DType::F32)?;
    let shares = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
    shares.matmul(&v)?.transpose(1, 2)?.reshape((rows * s.len, s.heads * s.width))
}

struct Attention(Heads);

/// Rotate one head's row by its position's angle (`turn` = 1) or back (-1).
#[inline(always)]
fn rotate(row: &mut [f32], cos: &[f32], sin: &[f32], turn: f32) {
    let (a, b) = row.split_at_mut(cos.len());
    for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(cos.iter().zip(sin)) {
        let (x, y, sin) = (*a, *b, sin * turn);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}

/// One head of one sequence, copied out: rows [T, h] and, for loops that run over positions, columns [h, T].
struct Head {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Head {
    fn new(s: &Heads) -> Self {
        Self { rows: vec![0.0; s.len * s.width], columns: vec![0.0; s.len * s.width] }
    }

    /// Copy head `head` of sequence `row` out of a matrix with `heads` heads.
    #[inline(always)]
    fn load(&mut self, from: &[f32], s: &Heads, row: usize, (head, heads): (usize, usize)) {
        for t in 0..s.len {
            let at = ((row * s.len + t) * heads + head) * s.width;
            self.rows[t * s.width..(t + 1) * s.width].copy_from_slice(&from[at..at + s.width]);
        }
    }

    #[inline(always)]
    fn rotate(&mut self, s: &Heads, (cos, sin): (&[f32], &[f32]), turn: f32) {
        let half = s.width / 2;
        for t in 0..s.len {
            let angles = t * half..(t + 1) * half;
            rotate(&mut self.rows[t * s.width..(t + 1) * s.width], &cos[angles.clone()], &sin[angles], turn);
        }
    }

    #[inline(always)]
    fn transpose(&mut self, s: &Heads) {
        for t in 0..s.len {
            for c in 0..s.width {
                self.columns[c * s.len + t] = self.rows[t * s.width + c];
            }
        }
    }

    /// Add the rows into head `head` of sequence `row`.
    #[inline(always)]
    fn store(&self, to: &mut [f32], s: &Heads, row: usize, (head, heads): (usize, usize)) {
        for t in 0..s.len {
            let at = ((row * s.len + t) * heads + head) * s.width;
            axpy(&mut to[at..at + s.width], 1.0, &self.rows[t * s.width..(t + 1) * s.width]);
        }
    }
}

/// The shares of one query over all positions.
#[inline(always)]
fn shares(query: &[f32], keys: &Head, scale: f32, out: &mut [f32]) {
    let len = out.len();
    out.fill(0.0);
    for (c, q) in query.iter().enumerate() {
        axpy(out, q * scale, &keys.columns[c * len..(c + 1) * len]);
    }
    let top = simd::max(out);
    let norm = 1.0 / simd::exp_sum(out, top);
    for p in out {
        *p *= norm;
    }
}

struct Forward<'a> {
    s: Heads,
    inputs: [&'a [f32]; 3],
    out: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let s = &self.s;
        let [q_in, k_in, v_in] = self.inputs;
        let (cos, sin) = s.angles();
        let (group, scale) = (s.heads / s.kv_heads, 1.0 / (s.width as f32).sqrt());
        let (mut q, mut k, mut v, mut mixed) = (Head::new(s), Head::new(s), Head::new(s), Head::new(s));
        let mut p = vec![0f32; s.len];
        for row in 0..q_in.len() / (s.len * s.heads * s.width) {
            for head in 0..s.heads {
                if head % group == 0 {
                    k.load(k_in, s, row, (head / group, s.kv_heads));
                    k.rotate(s, (&cos, &sin), 1.0);
                    k.transpose(s);
                    v.load(v_in, s, row, (head / group, s.kv_heads));
                }
                q.load(q_in, s, row, (head, s.heads));
                q.rotate(s, (&cos, &sin), 1.0);
                mixed.rows.fill(0.0);
                for t in 0..s.len {
                    let at = t * s.width..(t + 1) * s.width;
                    shares(&q.rows[at.clone()], &k, scale, &mut p);
                    for (p, v) in p.iter().zip(v.rows.chunks_exact(s.width)) {
                        axpy(&mut mixed.rows[at.clone()], *p, v);
                    }
                }
                mixed.store(self.out, s, row, (head, s.heads));
            }
        }
    }
}

struct Backward<'a> {
    s: Heads,
    inputs: [&'a [f32]; 3],
    grad: &'a [f32],
    outs: [&'a mut [f32]; 3],
}

impl Kernel for Backward<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let s = &self.s;
        let ([q_in, k_in, v_in], [dq_out, dk_out, dv_out]) = (self.inputs, self.outs);
        let (cos, sin) = s.angles();
        let (group, scale) = (s.heads / s.kv_heads, 1.0 / (s.width as f32).sqrt());
        let [mut q, mut k, mut v, mut g, mut dq, mut dk, mut dv] = [(); 7].map(|()| Head::new(s));
        let (mut p, mut dp) = (vec![0f32; s.len], vec![0f32; s.len]);
        for row in 0..q_in.len() / (s.len * s.heads * s.width) {
            for head in 0..s.heads {
                let kv = (head / group, s.kv_heads);
                if head % group == 0 {
                    k.load(k_in, s, row, kv);
                    k.rotate(s, (&cos, &sin), 1.0);
                    k.transpose(s);
                    v.load(v_in, s, row, kv);
                    v.transpose(s);
                }
                q.load(q_in, s, row, (head, s.heads));
                q.rotate(s, (&cos, &sin), 1.0);
                g.load(self.grad, s, row, (head, s.heads));
                for d in [&mut dq, &mut dk, &mut dv] {
                    d.rows.fill(0.0);
                }
                for t in 0..s.len {
                    let at = t * s.width..(t + 1) * s.width;
                    let (query, grad) = (&q.rows[at.clone()], &g.rows[at.clone()]);
                    shares(query, &k, scale, &mut p);
                    dp.fill(0.0);
                    for (c, g) in grad.iter().enumerate() {
                        axpy(&mut dp, *g, &v.columns[c * s.len..(c + 1) * s.len]);
                    }
                    let mean = dot(&p, &dp);
                    for (j, (p, dp)) in p.iter().zip(&dp).enumerate() {
                        let there = j * s.width..(j + 1) * s.width;
                        let ds = p * (dp - mean) * scale;
                        axpy(&mut dq.rows[at.clone()], ds, &k.rows[there.clone()]);
                        axpy(&mut dk.rows[there.clone()], ds, query);
                        axpy(&mut dv.rows[there], *p, grad);
                    }
                }
                dq.rotate(s, (&cos, &sin), -1.0);
                dk.rotate(s, (&cos, &sin), -1.0);
                dq.store(dq_out, s, row, (head, s.heads));
                dk.store(dk_out, s, row, kv);
                dv.store(dv_out, s, row, kv);
            }
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [elements(q, ql)?, elements(k, kl)?, elements(v, vl)?];
        let mut out = vec![0f32; inputs[0].len()];
        simd::run(Forward { s: self.0, inputs, out: &mut out });
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0f32; x.elem_count()]);
        super::read(grad, |grad| {
            super::read(q, |q| {
                super::read(k, |k| {
                    super::read(v, |v| {
                        let outs = [&mut dq[..], &mut dk[..], &mut dv[..]];
                        simd::run(Backward { s: self.0, inputs: [q, k, v], grad, outs });
                    })
                })
            })
        })????;
        let tensor = |data: Vec<f32>, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dv, v)?)))
    }
}
