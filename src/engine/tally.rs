//! What the metrics are told of sequences and ticks.

use std::time::Instant;

use super::sequence::{Sequence, Ticket};
use crate::decode::StepPlan;
use crate::telemetry::metrics::{FinishStats, TickStats};

/// Of a sequence that never had a slot.
pub(super) fn of_queued(ticket: &Ticket, now: Instant) -> FinishStats {
    FinishStats {
        method: ticket.request.decode().method.name(),
        prompt_tokens: ticket.request.prompt().len() + ticket.request.suffix().len(),
        tokens: 0,
        nfe: 0,
        canvas_positions: 0,
        revisions: 0,
        seconds: now.duration_since(ticket.queued_at).as_secs_f64(),
    }
}

/// Of a sequence, so far.
pub(super) fn of_sequence(sequence: &Sequence, now: Instant) -> FinishStats {
    let (progress, request) = (sequence.progress, &sequence.ticket.request);
    let denoised = progress.blocks * request.decode().block_length;
    FinishStats {
        tokens: progress.tokens,
        nfe: progress.nfe,
        canvas_positions: denoised.min(request.max_tokens()),
        revisions: progress.revisions,
        ..of_queued(&sequence.ticket, now)
    }
}

/// Of the steps of a tick.
pub(super) fn of_steps(plan: &[(usize, StepPlan)]) -> TickStats {
    let refreshes = plan.iter().filter(|(_, step)| step.refresh).count();
    TickStats {
        sequences: plan.len(),
        rows: plan.iter().map(|(_, step)| step.rows()).sum(),
        refreshes,
        refinements: plan.len() - refreshes,
        seconds: 0.0,
    }
}
