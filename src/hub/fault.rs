//! What goes wrong with a hub, and whether it may go well another time.

use std::io::ErrorKind;

use hf_hub::api::sync::ApiError;
use ureq::Error;

/// Why something failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may go well another time.
    Passing(String),
    /// Another program downloads the same file.
    Busy(String),
    /// It will not change by itself.
    Lasting(String),
}

impl Fault {
    /// Of asking for `what`; files are written at `place`.
    pub(super) fn of(error: ApiError, what: &str, place: &str) -> Self {
        match error {
            ApiError::RequestError(error) => of_request(&error, what),
            ApiError::LockAcquisition(_) => Self::Busy(format!("{what}: another program downloads it")),
            ApiError::InvalidResume => Self::Passing(cannot_go_on(what)),
            ApiError::IoError(error) => Self::of_io(&error, what, place),
            error @ (ApiError::MissingHeader(_)
            | ApiError::InvalidHeader(_)
            | ApiError::ParseIntError(_)
            | ApiError::TooManyRetries(_)) => Self::Lasting(format!("{what}: {error}: is this a hub?")),
        }
    }

    pub(super) fn of_io(error: &std::io::Error, what: &str, place: &str) -> Self {
        match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::FileTooLarge
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::NotFound => {
                Self::Lasting(format!("{what} cannot be written at {place} (HF_HOME): {error}"))
            }
            _ => Self::Passing(format!("{what}: the connection was cut: {error}")),
        }
    }
}

/// Whether what had come of a file is of no use.
pub(super) fn is_unusable_part(error: &ApiError) -> bool {
    match error {
        ApiError::InvalidResume => true,
        ApiError::RequestError(error) => matches!(**error, Error::StatusCode(416)),
        _ => false,
    }
}

fn cannot_go_on(what: &str) -> String {
    format!("{what}: what had come does not fit what the hub has")
}

fn of_request(error: &Error, what: &str) -> Fault {
    let lasting = |reason: &str| Fault::Lasting(format!("{what}: {reason}"));
    match error {
        Error::StatusCode(401) => lasting(
            "the hub says 401: there is no such model, or it is not public: HF_TOKEN must hold a token that may read it",
        ),
        Error::StatusCode(403) => lasting(
            "the hub says 403: accept the model's terms on its page there, and set HF_TOKEN to a token of that account",
        ),
        Error::StatusCode(404) => lasting("the hub says 404: it has no such model, revision or file"),
        Error::StatusCode(416) => Fault::Passing(cannot_go_on(what)),
        Error::StatusCode(status @ (408 | 425 | 429 | 500..)) => {
            Fault::Passing(format!("{what}: the hub says {status}"))
        }
        Error::StatusCode(status) => lasting(&format!("the hub says {status}")),
        Error::BadUri(_) | Error::Http(_) => lasting(&format!("{error}: HF_ENDPOINT must be an address")),
        Error::Json(_) => lasting(&format!("{error}: is this a hub?")),
        error => Fault::Passing(format!("{what}: the hub cannot be reached: {error}")),
    }
}
