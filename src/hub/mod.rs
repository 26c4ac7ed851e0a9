//! Models by their names on a Hugging Face hub: the feature `hub` downloads them. Without it nothing is downloaded.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod fault;

use std::fmt::{Debug, Display, Formatter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{ModelError, ModelSource, bundled};

/// The branch that a name without a revision stands for.
const MAIN: &str = "main";

/// Where the hub is, and where its files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// `HF_HOME`; `None`: nobody said where files may go.
    pub home: Option<PathBuf>,
    /// `HF_ENDPOINT`, without a slash at its end.
    pub endpoint: String,
    /// `HF_TOKEN`; `None`: the file `token` in `home`, if there is one.
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`: take what is there and ask nobody.
    pub offline: bool,
    /// How long a download may stand still before it is given up.
    pub patience: Duration,
    /// The pause before the first repetition; each further one is twice as long.
    pub pause: Duration,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            home: None,
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
            patience: Duration::from_secs(60),
            pause: Duration::from_secs(1),
        }
    }
}

/// What the hub knows its client by; it shows up in no log and no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// This token.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The token in clear.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Debug for Token {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// `org/name`, or `org/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    name: String,
    revision: String,
}

impl HubId {
    /// The name that `path` is, if it is one and nothing on this disk, not even the folder it would be in.
    pub fn of(path: &Path) -> Option<Self> {
        let plain = |part: &str| {
            let letters = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            !part.is_empty() && !part.starts_with('.') && letters
        };
        let text = path.to_str()?;
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (org, rest) = name.split_once('/')?;
        let named = plain(org) && plain(rest) && revision.split('/').all(plain);
        let on_disk = Path::new(org).exists() || rest.to_ascii_lowercase().ends_with(".gguf");
        (named && !on_disk).then(|| Self { name: name.to_owned(), revision: revision.to_owned() })
    }

    /// `org/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag, or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl Display for HubId {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// What `path` stands for: a folder or a GGUF file, or else a model of the hub, which is downloaded if it must be.
///
/// # Errors
/// Nothing is there, it is a file that is no usable GGUF file, or the hub does not give what is wanted.
pub fn open(path: &Path, hub: &Hub) -> Result<ModelSource, ModelError> {
    match HubId::of(path) {
        None if !path.exists() => Err(ModelError::file(path.display(), "no such file or folder")),
        None => ModelSource::open(path),
        Some(id) => Ok(ModelSource::Snapshot { folder: fetch(&id, hub)?, name: id.name }),
    }
}

/// The model that somebody asked for, and without one the bundled model.
///
/// # Errors
/// As [`open`].
pub fn or_bundled(model: Option<&Path>, hub: &Hub) -> Result<ModelSource, ModelError> {
    model.map_or(Ok(bundled::COUNTDOWN), |path| open(path, hub))
}

#[cfg(feature = "hub")]
fn fetch(id: &HubId, hub: &Hub) -> Result<PathBuf, ModelError> {
    download::fetch(id, hub).map_err(|reason| ModelError::file(id, reason))
}

#[cfg(not(feature = "hub"))]
fn fetch(id: &HubId, _: &Hub) -> Result<PathBuf, ModelError> {
    let reason = "no such folder; this program was built without `--features hub`, so it downloads no models: get the files from the hub and give their folder";
    Err(ModelError::file(id, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_name_is_told_from_a_path() {
        for (name, id) in [
            ("GSAI-ML/LLaDA-8B-Base", ("GSAI-ML/LLaDA-8B-Base", "main")),
            ("Dream-org/Dream-v0-Instruct-7B@v1.0", ("Dream-org/Dream-v0-Instruct-7B", "v1.0")),
            ("org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        ] {
            let found = HubId::of(Path::new(name)).unwrap();
            assert_eq!((found.name(), found.revision()), id);
            assert_eq!(found.to_string(), name);
        }
        // `src` is a folder here: a slip in a path, no organisation.
        for path in [
            "nowhere",
            "nowhere/",
            "/nowhere/x",
            "./nowhere",
            "../nowhere",
            "a/b/c",
            "a/b@",
            "a/b@../c",
            "a/b:c.gguf",
            "a/b.gguf",
            "src/nowhere",
            "src/model",
        ] {
            assert_eq!(HubId::of(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let hub = Hub { token: Some(Token::new("hf_secret".to_owned())), ..Hub::default() };
        assert!(!format!("{hub:?}").contains("secret"));
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn a_hub_name_is_refused_with_what_to_do_where_nothing_is_downloaded() {
        let error = open(Path::new("GSAI-ML/LLaDA-8B-Base"), &Hub::default()).unwrap_err().to_string();
        assert!(error.starts_with("GSAI-ML/LLaDA-8B-Base: no such folder; "), "{error}");
        assert!(error.contains("--features hub"), "{error}");
    }
}
