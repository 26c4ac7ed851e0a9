//! Tells the program which commit it is built from: `EVOTOKEN_REVISION`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=EVOTOKEN_REVISION");
    // Given by builds that see no history, such as one in a container.
    let given = std::env::var("EVOTOKEN_REVISION").ok().filter(|revision| !revision.is_empty());
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // Not in debug builds: every commit would compile the crate anew.
    let revision = given.or_else(|| if release { commit() } else { Some("debug".to_owned()) });
    println!("cargo:rustc-env=EVOTOKEN_REVISION={}", revision.as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out, if this folder is the root of a repository; with a release's sources it is none, or
/// lies in somebody else's.
fn commit() -> Option<String> {
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    println!("cargo:rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
