//! silu(gate) * up.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::{elements, fused};
use crate::simd::{self, Kernel, exp};

/// silu(gate) * up, element by element; both `[M, F]`.
///
/// # Errors
/// The shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fused(gate) { gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu) } else { gate.silu()? * up }
}

struct SwiGlu;

struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    grad: &'a [f32],
    d_gate: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let outs = self.d_gate.iter_mut().zip(self.d_up.iter_mut());
        for (((dg, du), grad), (g, u)) in outs.zip(self.grad).zip(self.gate.iter().zip(self.up)) {
            let s = 1.0 / (1.0 + exp(-g));
            *du = grad * g * s;
            *dg = grad * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        g: &CpuStorage,
        gl: &Layout,
        u: &CpuStorage,
        ul: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (elements(g, gl)?, elements(u, ul)?);
        let mut out = vec![0f32; gate.len()];
        simd::run(simd::SwiGlu { gate, up, out: &mut out });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut d_gate, mut d_up) = (vec![0f32; gate.elem_count()], vec![0f32; gate.elem_count()]);
        super::read(g, |grad| {
            super::read(gate, |gate| {
                super::read(up, |up| {
                    simd::run(Backward { gate, up, grad, d_gate: &mut d_gate, d_up: &mut d_up });
                })
            })
        })???;
        Ok((
            Some(Tensor::from_vec(d_gate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(d_up, gate.shape(), gate.device())?),
        ))
    }
}
