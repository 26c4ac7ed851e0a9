//! The way of a sequence's events: what the engine writes and what the text layer reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::event::BlockEvent;
use crate::decode::Snapshot;

/// Steps that may be told before the reader has read any of them. Further ones are left out, so that watching costs no
/// reader its answer.
pub const STEPS_AHEAD: usize = 8;

/// The engine's end.
#[derive(Debug)]
pub struct Writer {
    events: Sender<BlockEvent>,
    known: Arc<Known>,
}

/// What both ends know of each other beside the events.
#[derive(Debug, Default)]
struct Known {
    /// The reader had all it wanted.
    content: AtomicBool,
    /// Steps told that are not yet read.
    steps: AtomicUsize,
}

/// The reader's end. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct Reader {
    events: Receiver<BlockEvent>,
    known: Arc<Known>,
}

/// Both ends, with room for `capacity` events that nobody has read yet, and for [`STEPS_AHEAD`] steps beside them.
pub fn events(capacity: usize) -> (Writer, Reader) {
    let (sender, receiver) = channel(capacity + STEPS_AHEAD);
    let known = Arc::<Known>::default();
    (Writer { events: sender, known: Arc::clone(&known) }, Reader { events: receiver, known })
}

impl Writer {
    /// Write without waiting.
    ///
    /// # Errors
    /// The reader left, or has no room.
    pub fn try_send(&self, event: BlockEvent) -> Result<(), TrySendError<BlockEvent>> {
        if !self.is_closed() && !self.has_room(1) {
            // What is left is kept for steps.
            return Err(TrySendError::Full(event));
        }
        self.events.try_send(event)
    }

    /// Tell a step, unless too many are unread: then it is left out.
    pub fn tell_step(&self, nfe: usize, snapshot: Snapshot) {
        let steps = &self.known.steps;
        // Nobody else adds any.
        if steps.load(Ordering::Acquire) < STEPS_AHEAD {
            steps.fetch_add(1, Ordering::AcqRel);
            let step = BlockEvent::Step { nfe, snapshot: Box::new(snapshot) };
            if self.events.try_send(step).is_err() {
                steps.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Whether the reader is there and has room for so many more events that are no steps.
    pub fn has_room(&self, events: usize) -> bool {
        let kept_for_steps = STEPS_AHEAD - self.known.steps.load(Ordering::Acquire);
        !self.is_closed() && self.events.capacity() >= events + kept_for_steps
    }

    /// Whether the reader left.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the reader left because it had all it wanted.
    pub fn reader_is_content(&self) -> bool {
        self.known.content.load(Ordering::Acquire)
    }
}

impl Reader {
    /// The next event, or `None` after the last.
    pub async fn recv(&mut self) -> Option<BlockEvent> {
        let event = self.events.recv().await;
        self.took(event)
    }

    /// As [`Self::recv`], on a thread that may wait.
    pub fn blocking_recv(&mut self) -> Option<BlockEvent> {
        let event = self.events.blocking_recv();
        self.took(event)
    }

    fn took(&self, event: Option<BlockEvent>) -> Option<BlockEvent> {
        if matches!(event, Some(BlockEvent::Step { .. })) {
            self.known.steps.fetch_sub(1, Ordering::AcqRel);
        }
        event
    }

    /// Leave because the answer is complete: a stop string ended it. The sequence then counts as finished, not as
    /// cancelled.
    pub fn leave_content(self) {
        self.known.content.store(true, Ordering::Release);
    }
}
