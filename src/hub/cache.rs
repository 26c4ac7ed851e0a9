//! The folder into which Hugging Face's programs put what they download: blobs, and snapshots of links to them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::{Hub, HubId};
use crate::model::checkpoint::shards;

/// The one file that every model has.
pub(super) const CONFIG: &str = "config.json";

/// One model's part of the cache.
pub(super) struct Shelf {
    pub(super) cache: Cache,
    id: HubId,
}

impl Shelf {
    pub(super) fn new(id: &HubId, hub: &Hub) -> Result<Self, String> {
        let home = hub.home.as_ref().ok_or("HF_HOME must name the folder for downloads: there is no HOME")?;
        Ok(Self { cache: Cache::new(home.join("hub")), id: id.clone() })
    }

    /// Where messages say that files are.
    pub(super) fn place(&self) -> String {
        self.cache.path().display().to_string()
    }

    /// The model at another revision than it was asked for.
    pub(super) fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.name.clone(), RepoType::Model, revision.to_owned())
    }

    pub(super) fn files(&self, revision: &str) -> CacheRepo {
        self.cache.repo(self.repo(revision))
    }

    /// The folder of the revision that was asked for, as far as this disk knows.
    pub(super) fn snapshot(&self) -> Result<PathBuf, String> {
        let revision = &self.id.revision;
        let files = self.files(revision);
        // A commit needs no reference: it is the folder's name.
        let config = files.pointer_path(revision).join(CONFIG);
        let config = if config.exists() { Some(config) } else { files.get(CONFIG) };
        let folder = config.and_then(|config| config.parent().map(Path::to_owned)).ok_or(CONFIG)?;
        let missing = shards(&folder, "model").map_err(|e| e.to_string())?.into_iter().find(|f| !f.exists());
        match missing.as_ref().and_then(|file| file.file_name()) {
            None => Ok(folder),
            Some(file) => Err(file.to_string_lossy().into_owned()),
        }
    }

    /// The same, if no hub can say that there is a newer one.
    pub(super) fn settled(&self) -> Option<PathBuf> {
        is_commit(&self.id.revision).then(|| self.snapshot().ok()).flatten()
    }

    /// Remember that the revision that was asked for is this commit. Last of all: a reference stands for a whole model.
    pub(super) fn settle(&self, commit: &str) -> std::io::Result<()> {
        self.files(&self.id.revision).create_ref(commit)
    }
}

/// Whether this is a commit's name, which can be a folder's.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Bytes of a file; 0 if there is none.
pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Whether another program downloads a blob, by the lock that hf-hub takes for it.
pub(super) fn is_taken(blob: &Path) -> std::io::Result<bool> {
    if let Some(folder) = blob.parent() {
        fs::create_dir_all(folder)?;
    }
    match File::create(blob.with_extension("lock"))?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Take a link away that leads nowhere.
pub(super) fn unlink_dangling(pointer: &Path) -> std::io::Result<()> {
    if pointer.is_symlink() && !pointer.exists() { fs::remove_file(pointer) } else { Ok(()) }
}

/// Make `pointer` stand for a blob that is there already, two folders up.
pub(super) fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if let Some(folder) = pointer.parent() {
        fs::create_dir_all(folder)?;
    }
    let name = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new("../../blobs").join(name), pointer)
}
