//! Threads that wait for the next piece of a step without going to sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keeps the other threads of the caller's pool awake until it is dropped. A step is some hundred pieces of shared work, one
/// soon after the other; a thread that slept between them would be woken for each, which can take longer than its share.
pub(super) struct Awake(Arc<AtomicBool>);

impl Awake {
    /// From now on, where the caller is a thread of a pool.
    pub fn keep() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        if let Some(own) = rayon::current_thread_index().filter(|_| rayon::current_num_threads() > 1) {
            let over = Arc::clone(&over);
            rayon::spawn_broadcast(move |context| {
                while context.index() != own && !over.load(Ordering::Acquire) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        // Other programs come first.
                        std::thread::yield_now();
                    }
                }
            });
        }
        Self(over)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        // The caller's own part of the broadcast has nothing to do, but must not be left lying.
        rayon::yield_local();
    }
}
