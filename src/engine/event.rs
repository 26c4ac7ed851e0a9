//! What a running sequence tells its reader.

use crate::decode::{Snapshot, TokenScore};

/// Why a sequence ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token (or, in the text layer, a stop string).
    Stop,
    /// The answer is as long as was asked for.
    Length,
}

/// Why a sequence ended badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The forward pass failed or panicked.
    #[error("the model failed on this request")]
    Backend,
    /// No memory for the K/V slot.
    #[error("no memory for this request at the moment")]
    OutOfMemory,
    /// The request's deadline passed.
    #[error("the request took longer than allowed")]
    Timeout,
    /// The server stops.
    #[error("the server is shutting down")]
    Stopping,
}

/// What a sequence tells of itself: counts so far, and its seed. It comes with every event, so that usage is right
/// whenever the reader stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Forward passes (NFE).
    pub nfe: usize,
    /// Finished blocks.
    pub blocks: usize,
    /// Visible answer tokens of the finished blocks; end-of-text counts as one, what follows it does not count.
    pub tokens: usize,
    /// Soft positions whose token changed.
    pub revisions: usize,
    /// Key of its randomness, the client's or the server's own.
    pub seed: u64,
}

/// One message from the engine to the reader of a sequence. `Admitted` comes first, exactly one of `Finished` and
/// `Failed` last.
#[derive(Debug, Clone, PartialEq)]
pub enum BlockEvent {
    /// The sequence has its slot: from here on it runs.
    Admitted,
    /// The prompt is scored, if that was asked for; comes before the first block.
    Scored {
        /// The scores of the prompt's tokens, by the chain rule without the first.
        scores: Vec<TokenScore>,
    },
    /// A denoising step is done; only if asked for, and not told while the reader lags. Comes before the block that the
    /// step finished.
    Step {
        /// Forward passes so far, this one included.
        nfe: usize,
        /// What the step left behind.
        snapshot: Box<Snapshot>,
    },
    /// A block is done; its tokens can no longer change.
    Block {
        /// Token ids, without end-of-text and what follows it.
        ids: Vec<u32>,
        /// The scores of these tokens, and of end-of-text if it came; empty unless asked for.
        scores: Vec<TokenScore>,
        /// Counts including this block.
        progress: Progress,
    },
    /// The answer is complete.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Final counts.
        progress: Progress,
    },
    /// The answer will not be completed.
    Failed(SequenceError),
}
