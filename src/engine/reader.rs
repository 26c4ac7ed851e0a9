//! The way of a sequence's events: what the engine writes and what the text layer reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::event::BlockEvent;

/// The engine's end.
#[derive(Debug)]
pub struct Writer {
    events: Sender<BlockEvent>,
    content: Arc<AtomicBool>,
}

/// The reader's end. Dropping it cancels the sequence.
#[derive(Debug)]
pub struct Reader {
    events: Receiver<BlockEvent>,
    content: Arc<AtomicBool>,
}

/// Both ends, with room for `capacity` events that nobody has read yet.
pub fn events(capacity: usize) -> (Writer, Reader) {
    let (sender, receiver) = channel(capacity);
    let content = Arc::new(AtomicBool::new(false));
    (Writer { events: sender, content: Arc::clone(&content) }, Reader { events: receiver, content })
}

impl Writer {
    /// Write without waiting.
    ///
    /// # Errors
    /// The reader left, or has no room.
    pub fn try_send(&self, event: BlockEvent) -> Result<(), TrySendError<BlockEvent>> {
        self.events.try_send(event)
    }

    /// Whether the reader is there and has room for so many more events.
    pub fn has_room(&self, events: usize) -> bool {
        !self.is_closed() && self.events.capacity() >= events
    }

    /// Whether the reader left.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the reader left because it had all it wanted.
    pub fn reader_is_content(&self) -> bool {
        self.content.load(Ordering::Acquire)
    }
}

impl Reader {
    /// The next event, or `None` after the last.
    pub async fn recv(&mut self) -> Option<BlockEvent> {
        self.events.recv().await
    }

    /// As [`Self::recv`], on a thread that may wait.
    pub fn blocking_recv(&mut self) -> Option<BlockEvent> {
        self.events.blocking_recv()
    }

    /// Leave because the answer is complete: a stop string ended it. The sequence then counts as finished, not as
    /// cancelled.
    pub fn leave_content(self) {
        self.content.store(true, Ordering::Release);
    }
}
