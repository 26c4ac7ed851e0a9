//! What a network needs of a checkpoint, by name and shape, and how a checkpoint meets it. No weight is read.

use super::checkpoint::Checkpoint;
use super::names::Names;
use super::product::{Holding, Packed};
use super::stored::Format;
use super::{ModelConfig, ModelError};

/// A tensor that a network needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in a checkpoint.
    pub name: String,
    /// Its lengths, the outermost first.
    pub shape: Vec<usize>,
    /// What it is there for.
    pub role: Role,
}

/// How a tensor is used, which decides how it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The table of embeddings: held as it is stored.
    Embedding,
    /// A matrix of a layer.
    Matrix,
    /// The head.
    Head,
    /// A norm or a bias: held in f32.
    Vector,
}

impl Wanted {
    /// Numbers of it.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its bytes where it is stored as `format`; 0 if it cannot be.
    pub fn bytes(&self, format: Format) -> usize {
        let width = self.shape.last().copied().unwrap_or(1);
        format.row_bytes(width).map_or(0, |row| self.count() / width.max(1) * row)
    }
}

/// All tensors of a network.
pub fn wanted(config: &ModelConfig) -> Vec<Wanted> {
    let names = Names::of(config.family);
    let (width, kv, mlp) = (config.width, config.kv_width(), config.mlp);
    let one = |module: String, kind: &str, shape: &[usize], role| Wanted {
        name: format!("{module}.{kind}"),
        shape: shape.to_vec(),
        role,
    };
    let table = [config.vocab, width];
    let mut all = vec![one(names.embedding.to_owned(), "weight", &table, Role::Embedding)];
    for number in 0..config.layers {
        for part in [names.norm1, names.norm2] {
            all.push(one(names.module(number, part), "weight", &[width], Role::Vector));
        }
        for (part, rows) in [(names.q, width), (names.k, kv), (names.v, kv)] {
            all.push(one(names.module(number, part), "weight", &[rows, width], Role::Matrix));
            if config.qkv_bias() {
                all.push(one(names.module(number, part), "bias", &[rows], Role::Vector));
            }
        }
        for (part, shape) in [
            (names.o, [width, width]),
            (names.gate, [mlp, width]),
            (names.up, [mlp, width]),
            (names.down, [width, mlp]),
        ] {
            all.push(one(names.module(number, part), "weight", &shape, Role::Matrix));
        }
    }
    all.push(one(names.final_norm.to_owned(), "weight", &[width], Role::Vector));
    if !config.tied_head {
        all.push(one(names.head.to_owned(), "weight", &table, Role::Head));
    }
    all
}

/// A checkpoint against what a network needs.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Tensors that are missing, misshapen or of an unusable type.
    pub faults: Vec<ModelError>,
    /// Names of tensors that nobody reads.
    pub unused: Vec<String>,
    /// The tensors that are as they should be, and how they are stored.
    pub found: Vec<(Wanted, Format)>,
}

impl Inventory {
    /// Look at every tensor's name, shape and type.
    pub fn of(config: &ModelConfig, checkpoint: &Checkpoint) -> Self {
        let mut inventory = Self::default();
        let wanted = wanted(config);
        let read: std::collections::BTreeSet<&str> =
            wanted.iter().map(|tensor| tensor.name.as_str()).collect();
        inventory.unused =
            checkpoint.names().filter(|name| !read.contains(name)).map(str::to_owned).collect();
        for tensor in wanted {
            match checkpoint.format(&tensor.name, &tensor.shape) {
                Ok(format) => inventory.found.push((tensor, format)),
                Err(fault) => inventory.faults.push(fault),
            }
        }
        inventory
    }

    /// Bytes of the weights in memory where they are held as `holding` says.
    pub fn bytes_held(&self, config: &ModelConfig, holding: Holding) -> usize {
        let formats = self.found.iter().map(|(_, format)| *format).collect();
        let holding = holding.of_model(self.found.iter().map(|(tensor, _)| tensor.count()).sum(), &formats);
        let held = |(tensor, format): &(Wanted, Format)| {
            let as_matrix = |to| match *tensor.shape {
                [outputs, inputs] => Packed::bytes_as([outputs, inputs], to),
                _ => 0,
            };
            match tensor.role {
                Role::Vector => tensor.bytes(Format::F32),
                Role::Matrix => as_matrix(holding.of(*format)),
                Role::Head => as_matrix(holding.of_head(*format)),
                Role::Embedding if config.tied_head => {
                    tensor.bytes(*format) + as_matrix(holding.of_head(*format))
                }
                Role::Embedding => tensor.bytes(*format),
            }
        };
        self.found.iter().map(held).sum()
    }
}
