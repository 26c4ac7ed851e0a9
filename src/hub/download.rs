//! Download what the server reads of a model, file by file, each to be continued where it was cut off.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::{Progress, RepoInfo};
use indicatif::{ProgressBar, ProgressStyle};

use super::cache::{CONFIG, Shelf, is_commit, is_taken, length, link, unlink_dangling};
use super::fault::{Fault, is_unusable_part};
use super::{Hub, HubId};
use crate::model::checkpoint::shards;

/// What is read beside weights, where a model has it.
const SMALL: [&str; 10] = [
    CONFIG,
    "evotoken.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// Failures in a row, without a byte in between, after which a file is given up.
const ATTEMPTS: u32 = 5;

/// The folder with the model's files; what is missing is downloaded.
pub(super) fn fetch(id: &HubId, hub: &Hub) -> Result<PathBuf, String> {
    let shelf = Shelf::new(id, hub)?;
    if hub.offline {
        return shelf.snapshot().map_err(|file| {
            let place = shelf.place();
            format!("{file} is not in {place}, and HF_HUB_OFFLINE forbids to download it: start once without")
        });
    }
    if let Some(folder) = shelf.settled() {
        return Ok(folder);
    }
    match watched(id, hub) {
        Err(Fault::Passing(reason)) => match shelf.snapshot() {
            Ok(folder) => {
                tracing::warn!(model = %id, reason, "the hub is not asked for a newer version: what is here is taken");
                Ok(folder)
            }
            Err(_) => Err(format!("{reason} (what has come is kept: start again to go on)")),
        },
        Err(Fault::Lasting(reason) | Fault::Busy(reason)) => Err(reason),
        Ok(folder) => Ok(folder),
    }
}

/// Download on a thread of its own, which is left to itself once nothing has come for too long: the library knows no
/// deadlines.
fn watched(id: &HubId, hub: &Hub) -> Result<PathBuf, Fault> {
    let signs = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = channel();
    let download = Download::new(id, hub, Arc::clone(&signs))?;
    let work = move || drop(sender.send(download.run()));
    let started = thread::Builder::new().name("hub".to_owned()).spawn(work);
    started.map_err(|e| Fault::Lasting(format!("a thread for the download: {e}")))?;
    let mut seen = 0;
    loop {
        match receiver.recv_timeout(hub.patience) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Fault::Lasting("the download failed unexpectedly".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = signs.load(Ordering::Relaxed);
                if now == seen {
                    let seconds = hub.patience.as_secs_f32();
                    return Err(Fault::Passing(format!("nothing came from the hub for {seconds} s")));
                }
                seen = now;
            }
        }
    }
}

/// A download under way.
struct Download {
    id: HubId,
    shelf: Shelf,
    api: Api,
    pause: Duration,
    /// Grows with everything that happens.
    signs: Arc<AtomicU64>,
}

/// One commit of the model.
struct Commit {
    name: String,
    repo: ApiRepo,
    folder: PathBuf,
    files: BTreeSet<String>,
}

impl Download {
    fn new(id: &HubId, hub: &Hub, signs: Arc<AtomicU64>) -> Result<Self, Fault> {
        let shelf = Shelf::new(id, hub).map_err(Fault::Lasting)?;
        let token = hub.token.as_ref().map(|token| token.text().to_owned());
        let token = token.or_else(|| shelf.cache.token());
        let api = ApiBuilder::from_cache(shelf.cache.clone())
            .with_endpoint(hub.endpoint.clone())
            .with_token(token)
            .with_user_agent("evotoken", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| Fault::Lasting(e.to_string()))?;
        Ok(Self { id: id.clone(), shelf, api, pause: hub.pause, signs })
    }

    fn run(&self) -> Result<PathBuf, Fault> {
        let commit = self.commit()?;
        if !commit.files.contains(CONFIG) {
            return Err(Fault::Lasting(format!("has no {CONFIG}: this is no model that can be served")));
        }
        for file in SMALL.into_iter().filter(|file| commit.files.contains(*file)) {
            self.file(&commit, file)?;
        }
        for file in self.weights(&commit)? {
            if !commit.files.contains(&file) {
                return Err(Fault::Lasting(format!("{INDEX} names {file}, which the hub does not have")));
            }
            self.file(&commit, &file)?;
        }
        let settled = self.shelf.settle(&commit.name);
        settled.map_err(|e| Fault::of_io(&e, "its reference", &self.shelf.place()))?;
        Ok(commit.folder)
    }

    /// What the revision is now: all files come from this commit, whatever is pushed in between.
    fn commit(&self) -> Result<Commit, Fault> {
        let asked = self.api.repo(self.shelf.repo(&self.id.revision));
        let RepoInfo { siblings, sha } = self.insist("the list of its files", || 0, || asked.info())?;
        if !is_commit(&sha) {
            return Err(Fault::Lasting(format!("the hub's commit {sha:?} is none")));
        }
        Ok(Commit {
            repo: self.api.repo(self.shelf.repo(&sha)),
            folder: self.shelf.files(&sha).pointer_path(&sha),
            files: siblings.into_iter().map(|file| file.rfilename).collect(),
            name: sha,
        })
    }

    /// Names of the weights' files.
    fn weights(&self, commit: &Commit) -> Result<Vec<String>, Fault> {
        if commit.files.contains(INDEX) {
            self.file(commit, INDEX)?;
        } else if !commit.files.contains(WEIGHTS) {
            let reason = format!("has neither {WEIGHTS} nor {INDEX}: other weights are not downloaded");
            return Err(Fault::Lasting(reason));
        }
        let paths = shards(&commit.folder, "model").map_err(|e| Fault::Lasting(e.to_string()))?;
        Ok(paths.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).collect())
    }

    /// See that a file is there.
    fn file(&self, commit: &Commit, name: &str) -> Result<(), Fault> {
        let pointer = commit.folder.join(name);
        if pointer.exists() {
            return Ok(());
        }
        let io = |e: std::io::Error| Fault::of_io(&e, name, &self.shelf.place());
        unlink_dangling(&pointer).map_err(io)?;
        let found = self.insist(name, || 0, || self.api.metadata(&commit.repo.url(name)))?;
        if found.commit_hash() != commit.name {
            let other = found.commit_hash();
            return Err(Fault::Lasting(format!("{name}: is of commit {other:?}, not of {}", commit.name)));
        }
        // Weak marks begin with `W/`; the library makes a folder of that.
        let etag = found.etag().strip_prefix("W/").unwrap_or(found.etag());
        if etag.is_empty() || !etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Fault::Lasting(format!("{name}: the hub's ETag {etag:?} can name no file")));
        }
        let blob = self.shelf.files(&commit.name).blob_path(found.etag());
        let (part, bytes) = (blob.with_extension("part"), found.size() as u64);
        if length(&blob) == bytes && blob.exists() && !found.etag().contains('/') {
            return link(&blob, &pointer).map_err(io);
        }
        let kept = length(&part);
        tracing::info!(model = %self.id, file = name, bytes, kept, "downloading");
        let come = || length(&part);
        self.insist(name, come, || {
            // Looked at before the library takes the lock: it would download once more what another program just has.
            if is_taken(&blob)? {
                return Err(ApiError::LockAcquisition(part.clone()));
            }
            if pointer.exists() {
                return Ok(());
            }
            let bar = Bar { bar: bar(name), signs: Arc::clone(&self.signs) };
            let whole = match commit.repo.download_with_progress(name, bar) {
                Err(error) if is_unusable_part(&error) => {
                    fs::remove_file(&part)?;
                    return Err(error);
                }
                fetched => fetched?,
            };
            if length(&whole) == bytes {
                return Ok(());
            }
            // The hub gave all of the file where the rest was asked for, or less than it said.
            fs::remove_file(&whole)?;
            fs::remove_file(&blob)?;
            Err(ApiError::InvalidResume)
        })
    }

    /// Ask until it goes well, or failed often without a byte (of those that have `come`) in between.
    fn insist<T>(
        &self,
        what: &str,
        come: impl Fn() -> u64,
        ask: impl Fn() -> Result<T, ApiError>,
    ) -> Result<T, Fault> {
        let (mut failures, mut had, mut waits) = (0, come(), false);
        loop {
            let asked = ask();
            self.signs.fetch_add(1, Ordering::Relaxed);
            let reason = match asked.map_err(|e| Fault::of(e, what, &self.shelf.place())) {
                Ok(found) => return Ok(found),
                Err(Fault::Busy(reason)) => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::info!(model = %self.id, reason, "waiting");
                    }
                    thread::sleep(self.pause);
                    continue;
                }
                Err(Fault::Passing(reason)) => reason,
                Err(lasting) => return Err(lasting),
            };
            let has = come();
            failures = if has > had { 1 } else { failures + 1 };
            had = has;
            if failures == ATTEMPTS {
                return Err(Fault::Passing(reason));
            }
            tracing::warn!(model = %self.id, reason, "trying again");
            thread::sleep(self.pause * 2_u32.pow(failures - 1));
            self.signs.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A file's progress, for people and for who waits for a sign.
struct Bar {
    bar: ProgressBar,
    signs: Arc<AtomicU64>,
}

impl Progress for Bar {
    fn init(&mut self, size: usize, _: &str) {
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
        self.signs.fetch_add(1, Ordering::Relaxed);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Hidden where stderr is no terminal.
fn bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message(name.to_owned())
}
