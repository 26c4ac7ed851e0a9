//! The way of a sequence's events: what the engine writes and what the text layer reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::event::BlockEvent;
use crate::decode::Snapshot;

/// Steps that may be told before the reader has read any of them. Further ones are left out, so that watching costs no
/// reader its answer.
pub const STEPS_AHEAD: usize = 1024;

/// Memory that these steps may take, in bytes: some 400 steps of a block of 32 positions with three candidates each, and
/// never less than five steps.
pub const STEP_BYTES_AHEAD: usize = 512 << 10;

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
    /// Their memory, in bytes.
    step_bytes: AtomicUsize,
}

impl Known {
    /// A step of so many bytes waits no more.
    fn read(&self, bytes: usize) {
        self.steps.fetch_sub(1, Ordering::AcqRel);
        self.step_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
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
        let (known, bytes) = (&self.known, snapshot.bytes());
        // Nobody else adds any.
        let fits = known.step_bytes.load(Ordering::Acquire) + bytes <= STEP_BYTES_AHEAD;
        if fits && known.steps.load(Ordering::Acquire) < STEPS_AHEAD {
            known.steps.fetch_add(1, Ordering::AcqRel);
            known.step_bytes.fetch_add(bytes, Ordering::AcqRel);
            let step = BlockEvent::Step { nfe, snapshot: Box::new(snapshot) };
            if self.events.try_send(step).is_err() {
                known.read(bytes);
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
        if let Some(BlockEvent::Step { snapshot, .. }) = &event {
            self.known.read(snapshot.bytes());
        }
        event
    }

    /// Leave because the answer is complete: a stop string ended it. The sequence then counts as finished, not as
    /// cancelled.
    pub fn leave_content(self) {
        self.known.content.store(true, Ordering::Release);
    }
}
