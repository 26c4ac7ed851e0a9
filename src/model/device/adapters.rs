//! Adapters of packed rows on a device: per adapter one gather of its rows and its two products, then one gather that gives
//! every row what its adapter says of it. No launch is for a sequence.

use candle_core::{DType, Result, Tensor};

use super::counts::{Counts, Op};
use super::upload::{Span, Upload, Uploaded};
use crate::engine::batch::AdapterId;
use crate::model::adapters::{Adapt, Adapters, PackedAdapter};
use crate::model::names::Part;

/// Which rows go through which adapter, as host data and spans.
#[derive(Debug, Default)]
pub struct AdapterPlan {
    /// Per adapter its rows.
    groups: Vec<(AdapterId, Span)>,
    /// Per row where what its adapter says of it lies: 0 for none, else 1 + the place among the rows of all groups.
    places: Span,
}

impl AdapterPlan {
    /// The adapter of each row.
    pub fn new(rows: &[Option<AdapterId>], upload: &mut Upload) -> Self {
        let mut groups: Vec<(AdapterId, Vec<usize>)> = Vec::new();
        for (row, id) in rows.iter().enumerate().filter_map(|(row, id)| id.map(|id| (row, id))) {
            match groups.iter_mut().find(|(other, _)| *other == id) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((id, vec![row])),
            }
        }
        if groups.is_empty() {
            return Self::default();
        }
        let mut places = vec![0; rows.len()];
        for (place, row) in (1..).zip(groups.iter().flat_map(|(_, rows)| rows)) {
            places[*row] = place;
        }
        let places = upload.indices(places);
        let groups = groups.into_iter().map(|(id, rows)| (id, upload.indices(rows)));
        Self { groups: groups.collect(), places }
    }

    /// With the adapters' matrices.
    ///
    /// # Errors
    /// An adapter is not here.
    pub fn rows<'a>(
        &self,
        adapters: &'a Adapters,
        uploaded: &Uploaded,
        counts: &'a Counts,
    ) -> Result<GatheredRows<'a>> {
        let groups = self.groups.iter().map(|(id, rows)| Ok((adapters.get(*id)?, uploaded.indices(rows)?)));
        Ok(GatheredRows {
            groups: groups.collect::<Result<_>>()?,
            places: uploaded.indices(&self.places)?,
            counts,
        })
    }
}

/// The rows of a pass by their adapters, on the device.
pub struct GatheredRows<'a> {
    groups: Vec<(&'a PackedAdapter, Tensor)>,
    places: Tensor,
    counts: &'a Counts,
}

impl Adapt for GatheredRows<'_> {
    fn add(&self, part: Part, x: &Tensor, y: Tensor) -> Result<(Tensor, u64)> {
        let (counts, out) = (self.counts, y.dim(1)?);
        let zeros = |rows| {
            counts.add(Op::Fill, 1);
            Tensor::zeros((rows, out), DType::F32, y.device())
        };
        if self.groups.iter().all(|(adapter, _)| adapter.module(part).is_none()) {
            return Ok((y, 0));
        }
        let (mut changes, mut applied) = (vec![zeros(1)?], 0);
        for (adapter, rows) in &self.groups {
            changes.push(match adapter.module(part) {
                Some(module) => {
                    applied += 1;
                    counts.add(Op::Select, 1);
                    module.count(counts);
                    module.forward(&x.index_select(rows, 0)?)?
                }
                None => zeros(rows.dim(0)?)?,
            });
        }
        counts.add(Op::Join, changes.len());
        counts.add(Op::Select, 1);
        counts.add(Op::Elementwise, 1);
        let changes = Tensor::cat(&changes, 0)?.index_select(&self.places, 0)?;
        Ok(((y + changes)?, applied))
    }
}
