//! Files that are there whole or not at all.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// Write a file under another name, flush it to the disk, then give it its name.
///
/// # Errors
/// It cannot be written; what stood under the name is untouched.
pub fn replace(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let place = || format!("cannot write {}", path.display());
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(place)?;
    let mut name = path.file_name().context("a file needs a name").with_context(place)?.to_owned();
    name.push(".partial");
    let partial = folder.join(name);
    let outcome = (|| -> Result<()> {
        let mut file = File::create(&partial)?;
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok(File::open(folder)?.sync_all()?)
    })();
    if outcome.is_err() && partial.exists() {
        std::fs::remove_file(&partial).with_context(place)?;
    }
    outcome.with_context(place)
}
