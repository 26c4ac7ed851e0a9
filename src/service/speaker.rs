//! Who answers: the model, or the model with one of its adapters, each by the names that clients may use.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::defaults::GenerationDefaults;
use super::{Service, ServiceParts, unix_seconds};
use crate::engine::variant::Variant;
use crate::model::marker::Marker;
use crate::model::{ModelError, ModelSource};

/// The model, or the model with one of its adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct Speaker {
    /// What answers call it.
    pub name: String,
    /// The model's own name for itself, or the adapter's folder.
    pub root: String,
    /// Of an adapter: the model's first name.
    pub parent: Option<String>,
    /// When it was loaded, in Unix seconds.
    pub created: u64,
    /// Its weights.
    pub variant: Variant,
    /// What its makers recommend.
    pub defaults: GenerationDefaults,
}

/// The adapters by name. Behind a lock, which the engine never takes.
#[derive(Debug, Default)]
pub(super) struct Adapters(RwLock<BTreeMap<String, Arc<Speaker>>>);

/// Why an adapter was not loaded or unloaded.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// It may not be called that.
    #[error("the adapter name {name:?} {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is one of that name.
    #[error("an adapter {0:?} has already been loaded")]
    Loaded(String),
    /// There is none of that name.
    #[error("no adapter {0:?} is loaded")]
    Unknown(String),
    /// Its folder cannot be used.
    #[error("adapter {name:?}: {place}: {error}")]
    Unusable {
        /// The name it was to have.
        name: String,
        /// The folder.
        place: String,
        /// What is wrong with it.
        error: ModelError,
    },
}

/// What separates a model's name from its adapter's in a request.
const SEPARATOR: char = ':';

/// Whether an adapter may have this name, whatever else is served.
///
/// # Errors
/// What is wrong with it.
pub fn check_adapter_name(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        return Err("must not be empty");
    }
    if name.contains(SEPARATOR) {
        return Err("must not contain ':', which stands between a model's name and an adapter's");
    }
    if name.contains(char::is_control) {
        return Err("must not contain control characters");
    }
    Ok(())
}

fn same(some: &[u32], others: &[u32]) -> bool {
    some.iter().all(|id| others.contains(id)) && others.iter().all(|id| some.contains(id))
}

impl Adapters {
    // A thread that panicked leaves nothing half done behind the lock.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Speaker>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Speaker>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// The model without an adapter.
    pub fn base(&self) -> Speaker {
        let ServiceParts { root, attention, defaults, .. } = &self.parts;
        Speaker {
            name: self.name().to_owned(),
            root: root.clone(),
            parent: None,
            created: self.created,
            variant: Variant { attention: *attention, adapter: None },
            defaults: defaults.clone(),
        }
    }

    /// Whom a request asks: the model by any of its names (or by none), or an adapter as `ADAPTER` or `MODEL:ADAPTER`.
    /// `None`: nobody is called that. Answers carry the model's first name, and the adapter's as it was asked for.
    pub fn speaker(&self, asked: Option<&str>) -> Option<Speaker> {
        let Some(asked) = asked.filter(|asked| !self.is_name(asked)) else { return Some(self.base()) };
        let adapters = self.adapters.read();
        // No adapter's name has the separator, a model's may.
        let found = adapters.get(asked).or_else(|| {
            let (model, adapter) = asked.rsplit_once(SEPARATOR)?;
            adapters.get(adapter).filter(|_| self.is_name(model))
        });
        found.map(|speaker| Speaker { name: asked.to_owned(), ..Speaker::clone(speaker) })
    }

    /// The adapters that are served, by name.
    pub fn adapters(&self) -> Vec<Arc<Speaker>> {
        self.adapters.read().values().cloned().collect()
    }

    /// Serve one more adapter: a PEFT LoRA folder. Takes as long as reading its files.
    ///
    /// # Errors
    /// The name is taken or unusable, or the folder is; nothing changes then.
    pub fn load_adapter(&self, name: &str, source: &ModelSource) -> Result<(), AdapterError> {
        let refused = |reason| AdapterError::Name { name: name.to_owned(), reason };
        check_adapter_name(name).map_err(refused)?;
        if self.is_name(name) || self.parts.names.iter().any(|own| self.is_name(&format!("{own}:{name}"))) {
            return Err(refused("is a name of the model, or makes one behind another of them"));
        }
        let loaded = || AdapterError::Loaded(name.to_owned());
        if self.adapters.read().contains_key(name) {
            return Err(loaded());
        }
        let speaker = self.read_adapter(name, source).map_err(|error| AdapterError::Unusable {
            name: name.to_owned(),
            place: source.place(),
            error,
        })?;
        let mut adapters = self.adapters.write();
        // Another one may have been quicker; this one's memory goes back with its last hold.
        if adapters.contains_key(name) {
            return Err(loaded());
        }
        tracing::info!(name, folder = speaker.root, attention = ?speaker.variant.attention, "adapter loaded");
        adapters.insert(name.to_owned(), Arc::new(speaker));
        Ok(())
    }

    /// Serve an adapter no longer. Requests that ask for it are refused from now on; answers that it has begun are finished.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn unload_adapter(&self, name: &str) -> Result<(), AdapterError> {
        let gone = self.adapters.write().remove(name);
        gone.ok_or_else(|| AdapterError::Unknown(name.to_owned()))?;
        tracing::info!(name, "adapter unloaded");
        Ok(())
    }

    fn is_name(&self, name: &str) -> bool {
        self.parts.names.iter().any(|own| own == name)
    }

    fn read_adapter(&self, name: &str, source: &ModelSource) -> Result<Speaker, ModelError> {
        let ServiceParts { attention, defaults, limits, adapter_loaders, engine, .. } = &self.parts;
        let own = GenerationDefaults::load(source)?;
        // Which tokens end an answer is the model's, because the engine and the rules of guided answers know one set.
        let others = |ids: &&Vec<u32>| !same(ids, &limits.eos_ids);
        if let Some(ids) = own.eos_ids.as_ref().filter(others) {
            let reason = format!("eos_token_id: {ids:?}, but the model ends with {:?}", limits.eos_ids);
            return Err(ModelError::File { file: "generation_config.json".to_owned(), reason });
        }
        let attention = Marker::load(source)?.attention.unwrap_or(*attention);
        let adapter = engine.new_adapter();
        for loader in adapter_loaders {
            // If one cannot, the others give it back with the lease.
            loader.load(adapter.id(), source)?;
        }
        Ok(Speaker {
            name: name.to_owned(),
            root: source.place(),
            parent: Some(self.name().to_owned()),
            created: unix_seconds(),
            variant: Variant { attention, adapter: Some(adapter) },
            defaults: own.or(defaults),
        })
    }
}
