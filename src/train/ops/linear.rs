//! y = x W^T.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{elements, fused};

/// x `[M, K]` times the transpose of w `[N, K]`: `[M, N]`.
///
/// # Errors
/// The shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op2(&w.contiguous()?, Linear) } else { x.matmul(&w.t()?) }
}

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

/// lhs times rhs on this thread only: the trainer splits a batch over threads, not a product, because products of a
/// small model are too short to be worth waking another thread.
fn product(lhs: Matrix, rhs: Matrix) -> Vec<f32> {
    let strides = |m: Matrix| if m.transposed { (m.rows as isize, 1) } else { (1, m.columns as isize) };
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert!(lhs.data.len() == m * k && rhs.data.len() == k * n && rhs.rows == k, "matrix sizes fit");
    let mut out = vec![0f32; m * n];
    let ((lhs_cs, lhs_rs), (rhs_cs, rhs_rs)) = (strides(lhs), strides(rhs));
    // SAFETY: the three buffers hold m*k, k*n and m*n elements (checked above) and the strides stay within them.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            lhs.data.as_ptr(),
            lhs_cs,
            lhs_rs,
            rhs.data.as_ptr(),
            rhs_cs,
            rhs_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    out
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((m, k), (n, kw)) = (xl.shape().dims2()?, wl.shape().dims2()?);
        if k != kw {
            bail!("linear: {k} columns times a weight of {kw} columns");
        }
        let x = Matrix { data: elements(x, xl)?, rows: m, columns: k, transposed: false };
        let w = Matrix { data: elements(w, wl)?, rows: k, columns: n, transposed: true };
        Ok((CpuStorage::F32(product(x, w)), (m, n).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((m, k), (n, _)) = (x.dims2()?, w.dims2()?);
        let dx = super::read(g, |g| {
            super::read(w, |w| {
                let g = Matrix { data: g, rows: m, columns: n, transposed: false };
                product(g, Matrix { data: w, rows: n, columns: k, transposed: false })
            })
        })??;
        let dx = Tensor::from_vec(dx, (m, k), x.device())?;
        if !w.track_op() {
            return Ok((Some(dx), None));
        }
        let dw = super::read(g, |g| {
            super::read(x, |x| {
                let g = Matrix { data: g, rows: n, columns: m, transposed: true };
                product(g, Matrix { data: x, rows: m, columns: k, transposed: false })
            })
        })??;
        Ok((Some(dx), Some(Tensor::from_vec(dw, (n, k), w.device())?)))
    }
}
