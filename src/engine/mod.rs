//! The engines: a bounded queue, and for each device slots and one thread that takes one denoising step of every running
//! sequence per tick.

pub mod adjustment;
pub mod batch;
pub mod event;
mod fault;
mod long;
mod prefix;
mod queue;
pub mod reader;
pub mod request;
pub mod sampling;
pub mod scheduler;
mod sequence;
mod sharing;
mod slots;
mod tally;
pub mod variant;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use tokio::sync::{Semaphore, TryAcquireError, watch};

pub use event::{BlockEvent, FinishReason, Progress, SequenceError};
pub use reader::Reader;

use crate::telemetry::metrics::Metrics;
use batch::{AdapterId, Backend};
use queue::{Load, Queue, Waiting};
use request::GenerateRequest;
use sequence::Ticket;
use variant::AdapterLease;
use worker::{Engine, Message, Worker};

/// K/V memory of an engine when nobody says how much it may take, in bytes.
pub const KV_BYTES: usize = 4 << 30;

/// Bounds of the engines.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineLimits {
    /// Most sequences waiting for a slot, in all.
    pub queue: usize,
    /// Most sequences running on each engine.
    pub slots: usize,
    /// Most bytes of K/V memory in use on each engine.
    pub kv_bytes: usize,
    /// Most bytes of finished prefixes kept for other sequences of a block-causal model, within what slots leave free of
    /// `kv_bytes`; 0: none are kept.
    pub prefix_cache_bytes: usize,
    /// Packed rows a tick aims at; a longer step is carried out over several ticks.
    pub rows_per_tick: usize,
    /// Events a reader may lag behind before its sequence is cancelled.
    pub event_buffer: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            queue: 256,
            slots: 64,
            kv_bytes: KV_BYTES,
            prefix_cache_bytes: 1 << 30,
            rows_per_tick: 1024,
            event_buffer: 64,
        }
    }
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

/// The way to the engines; clones share it. Their threads end when all are dropped and their work is done.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    queue: Arc<Queue>,
    /// Of each engine.
    inboxes: Arc<[mpsc::Sender<Message>]>,
    /// Free places in the queue.
    places: Arc<Semaphore>,
    ended: watch::Receiver<usize>,
    limits: Arc<EngineLimits>,
    /// Of the backend whose positions take most.
    bytes_per_position: usize,
    /// Number of the next adapter.
    next_adapter: Arc<AtomicU64>,
}

/// Start one engine.
///
/// # Errors
/// The operating system has no thread to give.
pub fn start<B: Backend + Send + 'static>(
    backend: B,
    model: ModelInfo,
    limits: EngineLimits,
    metrics: Arc<Metrics>,
) -> std::io::Result<EngineHandle> {
    start_all(vec![backend], model, limits, metrics)
}

/// Start an engine for each backend, all of the same model, and one queue before them.
///
/// # Errors
/// The operating system has no thread to give.
pub fn start_all<B: Backend + Send + 'static>(
    backends: Vec<B>,
    model: ModelInfo,
    limits: EngineLimits,
    metrics: Arc<Metrics>,
) -> std::io::Result<EngineHandle> {
    let count = backends.len();
    let (end, ended) = watch::channel(0);
    let end = Arc::new(end);
    let bytes_per_position = backends.iter().map(Backend::bytes_per_position).max().unwrap_or(1);
    let idle = Load {
        sequences: 0,
        free_slots: limits.slots,
        free_positions: limits.kv_bytes / bytes_per_position.max(1),
    };
    metrics.set_queue_limit(limits.queue);
    let queue = Arc::new(Queue::new(count, idle, Arc::clone(&metrics)));
    let mut inboxes = Vec::new();
    for (number, (backend, metrics)) in std::iter::zip(backends, metrics.of_engines(count)).enumerate() {
        let (inbox, messages) = mpsc::channel();
        inboxes.push(inbox);
        let worker = (model.clone(), limits.clone());
        let leaving = Leaving { engine: number, queue: Arc::clone(&queue), end: Arc::clone(&end) };
        std::thread::Builder::new().name(format!("engine-{number}")).spawn(move || {
            // A thread that is one of the pool's begins with its own share of a product at once; from outside it would hand
            // each product over and sleep. Without the threads of a pool of its own it still has the one of the process.
            let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
            let pool = if count > 1 { pool.num_threads(threads(count)) } else { pool };
            let _pool = pool.thread_name(move |thread| format!("compute-{number}-{thread}")).build();
            // Which engine a line of the log is of.
            let _span = (count > 1).then(|| tracing::info_span!("engine", number).entered());
            let engine = Engine { number, inbox: messages, queue: Arc::clone(&leaving.queue), metrics };
            let (model, limits) = worker;
            Worker::new(backend, model, limits, engine).run();
            drop(leaving);
        })?;
    }
    let places = Arc::new(Semaphore::new(limits.queue.min(Semaphore::MAX_PERMITS)));
    let (inboxes, limits) = (inboxes.into(), Arc::new(limits));
    let next_adapter = Arc::new(AtomicU64::new(1));
    Ok(EngineHandle { queue, inboxes, places, ended, limits, bytes_per_position, next_adapter })
}

/// Threads that one of several engines computes on: its part of those that one alone would have.
fn threads(engines: usize) -> usize {
    (rayon::current_num_threads() / engines).max(1)
}

/// Dropped when an engine's thread ends, however it ends.
struct Leaving {
    engine: usize,
    queue: Arc<Queue>,
    /// How many engines have ended.
    end: Arc<watch::Sender<usize>>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let left = self.queue.leave(self.engine);
        left.iter().for_each(|ticket| ticket.fail(SequenceError::Backend));
        self.end.send_modify(|ended| *ended += 1);
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
        self.enqueue(requests.into_iter().map(|request| (request, None)).collect(), deadline)
    }

    /// Queue a request once for every engine, or not at all.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_to_each(&self, request: &GenerateRequest) -> Result<Vec<Reader>, SubmitError> {
        self.enqueue((0..self.inboxes.len()).map(|engine| (request.clone(), Some(engine))).collect(), None)
    }

    /// Queue requests, some for one engine alone.
    fn enqueue(
        &self,
        requests: Vec<(GenerateRequest, Option<usize>)>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Reader>, SubmitError> {
        let full = SubmitError::QueueFull { capacity: self.limits.queue };
        let count = u32::try_from(requests.len()).map_err(|_| full.clone())?;
        let mut places = match Arc::clone(&self.places).try_acquire_many_owned(count) {
            Ok(places) => places,
            Err(TryAcquireError::Closed) => return Err(SubmitError::Stopping),
            Err(TryAcquireError::NoPermits) => return Err(full),
        };
        let (mut some, mut readers) = (Vec::new(), Vec::new());
        let queued_at = Instant::now();
        for (request, only) in requests {
            // Room for what may come before a reader has run (admitted, scores, a block, the end), whatever the setting.
            let (events, reader) = reader::events(self.limits.event_buffer.max(4));
            let place = places.split(1).ok_or_else(|| full.clone())?;
            some.push(Waiting { ticket: Ticket { request, events, queued_at, deadline }, place, only });
            readers.push(reader);
        }
        for engine in self.queue.push(some).ok_or(SubmitError::Stopping)? {
            // One that has ended meanwhile left nobody waiting for it.
            let _ = self.inboxes[engine].send(Message::Look);
        }
        Ok(readers)
    }

    /// Tell every engine. A thread that has ended needs no telling.
    fn tell(&self, message: impl Fn() -> Message) {
        self.inboxes.iter().for_each(|inbox| drop(inbox.send(message())));
    }

    /// A hold on an adapter that the backends have. When it is let go of, the backends give the adapter's memory back.
    pub fn hold(&self, adapter: AdapterId) -> Arc<AdapterLease> {
        Arc::new(AdapterLease::new(adapter, Arc::clone(&self.inboxes)))
    }

    /// A hold on an adapter that is yet to be loaded, under a number that none had.
    pub fn new_adapter(&self) -> Arc<AdapterLease> {
        self.hold(AdapterId(self.next_adapter.fetch_add(1, Ordering::Relaxed)))
    }

    /// Take nothing new from now on; what waits or runs goes on.
    pub fn stop_admitting(&self) {
        self.places.close();
        self.tell(|| Message::StopAdmitting);
    }

    /// End everything now: every sequence fails with [`SequenceError::Stopping`].
    pub fn stop(&self) {
        self.places.close();
        self.tell(|| Message::Stop);
    }

    /// Resolves when all engines' threads have ended (after `stop_admitting` and the last sequence, or `stop`).
    pub async fn ended(&self) {
        // An error means that the sender is gone, and with it the threads.
        let _ = self.ended.clone().wait_for(|ended| *ended == self.inboxes.len()).await;
    }
}
