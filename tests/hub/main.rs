//! Models by their names, from a hub on this machine (feature `hub`).
#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod cache;
mod fake;
mod faults;
mod model;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evotoken::hub::{Hub, Token, open};
use evotoken::model::ModelSource;
use fake::{FIRST, FakeHub, NAME, SECOND, etag};
use serde_json::json;
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// A model, and what nobody reads.
fn model() -> BTreeMap<String, Vec<u8>> {
    let mut files = model::tiny();
    files.insert("README.md".to_owned(), b"# A model".to_vec());
    files.insert("pytorch_model.bin".to_owned(), b"not read".to_vec());
    files.insert("generation_config.json".to_owned(), b"{}".to_vec());
    files
}

/// The same with its weights as two shards, the second of which is empty.
fn sharded() -> BTreeMap<String, Vec<u8>> {
    let mut files = model();
    let weights = files.remove(WEIGHTS).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let map: BTreeMap<&str, &str> = tensors.names().into_iter().map(|name| (name, "a.safetensors")).collect();
    let mut map = json!(map);
    map["extra"] = json!("b.safetensors");
    files.insert("model.safetensors.index.json".to_owned(), json!({"weight_map": map}).to_string().into());
    files.insert("a.safetensors".to_owned(), weights.clone());
    files.insert("b.safetensors".to_owned(), b"12345".to_vec());
    files
}

/// A hub, and the client's side of it with an empty cache.
struct Place {
    fake: FakeHub,
    hub: Hub,
    home: TempDir,
}

impl Place {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let fake = FakeHub::start(files);
        let hub = Hub {
            home: Some(home.path().to_owned()),
            endpoint: fake.address.clone(),
            pause: Duration::from_millis(1),
            ..Hub::default()
        };
        Self { fake, hub, home }
    }

    /// The folder that a name stands for, or what is said.
    fn open(&self, name: &str) -> Result<PathBuf, String> {
        answer(name, &self.hub)
    }

    /// The same with `HF_HUB_OFFLINE`.
    fn open_offline(&self, name: &str) -> Result<PathBuf, String> {
        answer(name, &Hub { offline: true, ..self.hub.clone() })
    }

    /// Connections end after so many bytes of the weights.
    fn cut(&self, bytes: usize) {
        self.fake.set(|state| state.cut = BTreeMap::from([(WEIGHTS.to_owned(), bytes)]));
    }

    /// Connections fall silent after so many bytes of the weights.
    fn stall(&self, bytes: usize) {
        self.fake.set(|state| state.stall = BTreeMap::from([(WEIGHTS.to_owned(), bytes)]));
    }

    /// Where the model's files are.
    fn shelf(&self) -> PathBuf {
        self.home.path().join("hub/models--test--tiny")
    }

    /// The file that holds what has come of a content.
    fn part(&self, content: &[u8]) -> PathBuf {
        self.shelf().join("blobs").join(etag(content) + ".part")
    }
}

fn answer(name: &str, hub: &Hub) -> Result<PathBuf, String> {
    match open(Path::new(name), hub) {
        Ok(ModelSource::Snapshot { folder, .. }) => Ok(folder),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

/// A folder's files.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_downloaded_by_its_name_and_only_what_is_read_of_it() {
    let place = Place::new(model());
    let source = open(Path::new(NAME), &place.hub).unwrap();
    assert_eq!(source.name(), NAME);
    let folder = place.open(NAME).unwrap();
    assert!(source.place().contains(folder.to_str().unwrap()), "{}", source.place());
    assert_eq!(folder, place.shelf().join("snapshots").join(FIRST));
    let expected = ["config.json", "generation_config.json", WEIGHTS, "tokenizer.json"];
    assert_eq!(names(&folder), expected);
    for file in expected {
        assert_eq!(fs::read(folder.join(file)).unwrap(), model()[file], "{file}");
    }
}

#[test]
fn shards_are_those_that_the_index_names() {
    let place = Place::new(sharded());
    let folder = place.open(NAME).unwrap();
    assert_eq!(fs::read(folder.join("a.safetensors")).unwrap(), model()[WEIGHTS]);
    assert_eq!(fs::read(folder.join("b.safetensors")).unwrap(), b"12345");
    assert!(!folder.join(WEIGHTS).exists());
}

#[test]
fn a_second_start_downloads_nothing() {
    let place = Place::new(model());
    let folder = place.open(NAME).unwrap();
    place.fake.taken();
    assert_eq!(place.open(NAME).unwrap(), folder);
    let asked: Vec<String> = place.fake.taken().into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/api/models/test/tiny/revision/main"]);
    // A commit never changes.
    assert_eq!(place.open(&format!("{NAME}@{FIRST}")).unwrap(), folder);
    assert!(place.fake.taken().is_empty());
}

#[test]
fn of_a_newer_commit_only_what_changed_is_downloaded() {
    let place = Place::new(model());
    place.open(NAME).unwrap();
    place.fake.set(|state| {
        state.commit = SECOND.to_owned();
        state.files.insert("generation_config.json".to_owned(), b"{\"eos_token_id\": 1}".to_vec());
    });
    place.fake.taken();
    let folder = place.open(NAME).unwrap();
    assert!(folder.ends_with(SECOND), "{}", folder.display());
    assert_eq!(fs::read(folder.join("generation_config.json")).unwrap(), b"{\"eos_token_id\": 1}");
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), model()[WEIGHTS]);
    let bodies: Vec<String> = place
        .fake
        .taken()
        .into_iter()
        .filter(|seen| seen.range.as_deref().is_some_and(|range| range.ends_with('-')))
        .map(|seen| seen.path)
        .collect();
    assert_eq!(bodies, [format!("/test/tiny/resolve/{SECOND}/generation_config.json")]);
}

#[test]
fn the_token_goes_to_the_hub_from_the_environment_or_else_from_its_file() {
    let mut place = Place::new(model());
    fs::write(place.home.path().join("token"), "hf_of_file\n").unwrap();
    place.open(NAME).unwrap();
    let sent = |place: &Place| place.fake.taken()[0].authorization.clone();
    assert_eq!(sent(&place).as_deref(), Some("Bearer hf_of_file"));
    place.hub.token = Some(Token::new("hf_given".to_owned()));
    place.open(NAME).unwrap();
    assert_eq!(sent(&place).as_deref(), Some("Bearer hf_given"));
}
