//! With which weights a request is answered: the model's own, or with one of its adapters beside them.

use std::sync::{Arc, mpsc};

use super::batch::AdapterId;
use super::worker::Message;
use crate::decode::Attention;

/// The weights that answer a request, and how they were trained to see a canvas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variant {
    /// Which positions see which.
    pub attention: Attention,
    /// The adapter, if it is one.
    pub adapter: Option<Arc<AdapterLease>>,
}

impl Variant {
    /// Whether somebody holds the adapter beside the one who asks: requests that wait or run.
    pub fn is_busy(&self) -> bool {
        self.adapter.as_ref().is_some_and(|lease| Arc::strong_count(lease) > 1)
    }

    /// The adapter's number in the backend.
    pub fn adapter_id(&self) -> Option<AdapterId> {
        self.adapter.as_ref().map(|lease| lease.id)
    }
}

/// A hold on an adapter in the backend's memory. Whoever lists the adapter holds one, and so does every sequence that it
/// answers; the last one to let go tells the engine, which forgets the adapter and what was kept of it. So no sequence can
/// find its adapter gone.
#[derive(Debug)]
pub struct AdapterLease {
    id: AdapterId,
    /// Of all engines: each has the adapter.
    inboxes: Arc<[mpsc::Sender<Message>]>,
}

impl AdapterLease {
    pub(super) fn new(id: AdapterId, inboxes: Arc<[mpsc::Sender<Message>]>) -> Self {
        Self { id, inboxes }
    }

    /// The adapter's number in the backends.
    pub fn id(&self) -> AdapterId {
        self.id
    }
}

impl PartialEq for AdapterLease {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Drop for AdapterLease {
    fn drop(&mut self) {
        for inbox in self.inboxes.iter() {
            // A thread that has ended gave all its memory back.
            let _ = inbox.send(Message::DropAdapter(self.id));
        }
    }
}
