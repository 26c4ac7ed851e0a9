//! What the engine makes of a backend that fails or panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::batch::BackendError;

/// The result of backend work for so many sequences. `None`: it failed, and was logged. A panic leaves at worst the slots
/// of these sequences in disorder, and those are given back.
pub(super) fn caught<T>(sequences: usize, work: impl FnOnce() -> Result<T, BackendError>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(result)) => Some(result),
        Ok(Err(error)) => {
            tracing::error!(%error, sequences, "a tick failed");
            None
        }
        Err(panic) => {
            tracing::error!(reason = reason(panic), sequences, "a tick panicked");
            None
        }
    }
}

/// What a panic said.
pub(super) fn reason(panic: Box<dyn Any + Send>) -> String {
    panic.downcast::<String>().map_or_else(
        |other| other.downcast::<&str>().map_or_else(|_| String::new(), |s| (*s).to_owned()),
        |s| *s,
    )
}
