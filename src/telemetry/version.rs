//! What this program is.

/// Version of the crate.
pub const NUMBER: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, shortened; `unknown` where it was built without its history.
pub const REVISION: &str = env!("EVOTOKEN_REVISION");
/// Both, for `--version`.
pub const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("EVOTOKEN_REVISION"), ")");
