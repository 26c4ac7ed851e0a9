//! The ways in which a sequence ends.

/// How a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// End-of-text, or a stop string.
    Stop,
    /// The answer is as long as was asked for.
    Length,
    /// Its reader went away.
    Cancelled,
    /// The server's fault, or a deadline.
    Failed,
}

impl Outcome {
    pub(super) const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Cancelled, Self::Failed];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// vLLM's word for it.
    pub(super) fn vllm_label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "abort",
            Self::Failed => "error",
        }
    }
}
