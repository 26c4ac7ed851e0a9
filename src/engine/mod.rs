//! The engine: a bounded queue, slots, and one thread that takes one denoising step of every running sequence per tick.

pub mod adjustment;
pub mod batch;
pub mod event;
mod fault;
mod long;
mod prefix;
pub mod reader;
pub mod scheduler;
mod sequence;
mod sharing;
mod slots;
pub mod variant;
mod worker;

use std::sync::{Arc, mpsc};
use std::time::Instant;

use tokio::sync::{Semaphore, TryAcquireError, watch};

pub use event::{BlockEvent, FinishReason, Progress, SequenceError};
pub use reader::Reader;

use crate::service::request::GenerateRequest;
use crate::telemetry::metrics::Metrics;
use batch::{AdapterId, Backend};
use sequence::Ticket;
use variant::AdapterLease;
use worker::{Message, Worker};

/// Bounds of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineLimits {
    /// Most sequences waiting for a slot.
    pub queue: usize,
    /// Most sequences running.
    pub slots: usize,
    /// Most bytes of K/V memory in use.
    pub kv_bytes: usize,
    /// Most bytes of finished prefixes kept for other sequences of a block-causal model, within what slots leave free of
    /// `kv_bytes`; 0: none are kept.
    pub prefix_cache_bytes: usize,
    /// Packed rows a tick aims at; a longer step is carried out over several ticks.
    pub rows_per_tick: usize,
    /// Events a reader may lag behind before its sequence is cancelled.
    pub event_buffer: usize,
}

/// Why the engine did not take a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Not enough places in the queue; nothing of the request was queued.
    #[error("the queue is full ({capacity} sequences)")]
    QueueFull {
        /// Places in all.
        capacity: usize,
    },
    /// One of the sequences needs more K/V memory than there is.
    #[error("needs {needed} bytes of K/V memory, {limit} exist")]
    NeverFits {
        /// For the largest sequence.
        needed: usize,
        /// In all.
        limit: usize,
    },
    /// The engine takes nothing new.
    #[error("the server is shutting down")]
    Stopping,
}

/// What the engine must know of the model it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The mask token.
    pub mask_id: u32,
    /// Tokens that end an answer at their block.
    pub eos_ids: Vec<u32>,
}

/// The way to the engine thread; clones share it. The thread ends when all are dropped and its work is done.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    inbox: mpsc::Sender<Message>,
    /// Free places in the queue.
    places: Arc<Semaphore>,
    ended: watch::Receiver<bool>,
    limits: Arc<EngineLimits>,
    bytes_per_position: usize,
}

/// Start the engine thread.
///
/// # Errors
/// The operating system has no thread to give.
pub fn start<B: Backend + Send + 'static>(
    backend: B,
    model: ModelInfo,
    limits: EngineLimits,
    metrics: Arc<Metrics>,
) -> std::io::Result<EngineHandle> {
    let (inbox, messages) = mpsc::channel();
    let (end, ended) = watch::channel(false);
    let bytes_per_position = backend.bytes_per_position();
    let places = Arc::new(Semaphore::new(limits.queue.min(Semaphore::MAX_PERMITS)));
    let shared = Arc::new(limits.clone());
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        // Sent when the thread ends, however it ends.
        let _end = EndOnDrop(end);
        // A thread that is one of the pool's begins with its own share of a product at once; from outside it would hand
        // each product over and sleep. Without the threads of a pool of its own it still has the one of the process.
        let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
        let _pool = pool.thread_name(|number| format!("compute-{number}")).build();
        Worker::new(backend, model, limits, metrics, messages).run();
    })?;
    Ok(EngineHandle { inbox, places, ended, limits: shared, bytes_per_position })
}

struct EndOnDrop(watch::Sender<bool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl EngineHandle {
    /// Queue all sequences of a request, or none. The receivers are in the order of `requests`; dropping one cancels
    /// its sequence.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was queued then.
    pub fn submit(
        &self,
        requests: Vec<GenerateRequest>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Reader>, SubmitError> {
        let needed = requests.iter().map(|r| r.canvas() * self.bytes_per_position).max().unwrap_or(0);
        if needed > self.limits.kv_bytes {
            return Err(SubmitError::NeverFits { needed, limit: self.limits.kv_bytes });
        }
        let full = SubmitError::QueueFull { capacity: self.limits.queue };
        let count = u32::try_from(requests.len()).map_err(|_| full.clone())?;
        let mut places = match Arc::clone(&self.places).try_acquire_many_owned(count) {
            Ok(places) => places,
            Err(TryAcquireError::Closed) => return Err(SubmitError::Stopping),
            Err(TryAcquireError::NoPermits) => return Err(full),
        };
        let (mut tickets, mut readers) = (Vec::new(), Vec::new());
        let queued_at = Instant::now();
        for request in requests {
            // Room for what may come before a reader has run (admitted, scores, a block, the end), whatever the setting.
            let (events, reader) = reader::events(self.limits.event_buffer.max(4));
            let place = places.split(1).ok_or_else(|| full.clone())?;
            tickets.push((Ticket { request, events, queued_at, deadline }, place));
            readers.push(reader);
        }
        self.inbox.send(Message::Submit(tickets)).map_err(|_| SubmitError::Stopping)?;
        Ok(readers)
    }

    /// A hold on an adapter that the backend has. When it is let go of, the backend gives the adapter's memory back.
    pub fn hold(&self, adapter: AdapterId) -> Arc<AdapterLease> {
        Arc::new(AdapterLease::new(adapter, self.inbox.clone()))
    }

    /// Take nothing new from now on; what waits or runs goes on.
    pub fn stop_admitting(&self) {
        self.places.close();
        // A thread that has ended needs no telling.
        let _ = self.inbox.send(Message::StopAdmitting);
    }

    /// End everything now: every sequence fails with [`SequenceError::Stopping`].
    pub fn stop(&self) {
        self.places.close();
        let _ = self.inbox.send(Message::Stop);
    }

    /// Resolves when the engine thread has ended (after `stop_admitting` and the last sequence, or `stop`).
    pub async fn ended(&self) {
        // An error means that the sender is gone, and with it the thread.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}
