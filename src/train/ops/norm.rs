//! RMSNorm.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};

use super::{elements, fused};
use crate::simd::{self, Kernel, dot};

/// w * x / sqrt(mean(x^2) + eps) over the last dimension: x `[M, D]`, w of D elements.
///
/// # Errors
/// The shapes do not fit.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if fused(x) {
        return x.contiguous()?.apply_op2(w, RmsNorm(eps as f32));
    }
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(w)
}

struct RmsNorm(f32);

struct Backward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    grad: &'a [f32],
    eps: f32,
    dx: &'a mut [f32],
    dw: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Found = ();

    #[inline(always)]
    fn run(self) {
        let d = self.w.len();
        let mut gw = vec![0f32; d];
        for ((x, g), dx) in
            self.x.chunks_exact(d).zip(self.grad.chunks_exact(d)).zip(self.dx.chunks_exact_mut(d))
        {
            let scale = 1.0 / (dot(x, x) / d as f32 + self.eps).sqrt();
            let outs = gw.iter_mut().zip(self.dw.iter_mut());
            for ((gw, dw), ((g, x), w)) in outs.zip(g.iter().zip(x).zip(self.w)) {
                *gw = g * w;
                *dw += g * x * scale;
            }
            let along = dot(&gw, x) * scale * scale / d as f32;
            for (dx, (gw, x)) in dx.iter_mut().zip(gw.iter().zip(x)) {
                *dx = scale * (gw - x * along);
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (elements(x, xl)?, elements(w, wl)?);
        let mut out = vec![0f32; x.len()];
        simd::run(simd::RmsNorm { x, w, eps: self.0, out: &mut out });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut dx, mut dw) = (vec![0f32; x.elem_count()], vec![0f32; w.elem_count()]);
        super::read(grad, |grad| {
            super::read(x, |x| {
                super::read(w, |w| {
                    simd::run(Backward { x, w, grad, eps: self.0, dx: &mut dx, dw: &mut dw });
                })
            })
        })???;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(dw, w.shape(), w.device())?),
        ))
    }
}
