//! What a command line may say.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::backend::device::Devices;
use crate::model::product::Holding;
use crate::telemetry::version;

/// OpenAI-compatible inference server for masked diffusion language models.
#[derive(Debug, Clone, Default, PartialEq, Parser)]
#[command(version = version::TEXT, args_conflicts_with_subcommands = true)]
pub struct Flags {
    /// Settings file (TOML); config/server.toml shows every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long)]
    pub host: Option<IpAddr>,
    /// Port to listen on
    #[arg(long)]
    pub port: Option<u16>,
    /// Model folder in Hugging Face's layout, a GGUF file, or ORG/NAME (or ORG/NAME@REVISION) on a hub, instead of the model in this program
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// PEFT LoRA folder that clients may ask for by this name, or by the folder's; may be given several times
    #[arg(long, value_name = "[NAME=]DIR")]
    pub adapter: Vec<NamedFolder>,
    /// What clients may call the model; answers carry the first
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub served_model_name: Vec<String>,
    /// Where the model runs: auto, cpu, cuda, cuda:N, or several with commas, of which each gets an engine
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<Devices>,
    /// In which format weight matrices are held in memory
    #[arg(long, visible_alias = "quantize", value_name = "FORMAT")]
    pub weights: Option<Holding>,
    /// Print the settings in force and exit
    #[arg(long)]
    pub check_config: bool,
    /// Nothing: serve
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Command {
    /// Print a completion script for a shell
    Completions {
        /// Whose
        shell: Shell,
    },
    /// Say what a model or an adapter is and what is wrong with it, without loading its weights
    ///
    /// Ends with status 1 if it could not be served.
    Inspect {
        /// Model folder, GGUF file, PEFT LoRA folder, or a model's name on a hub, which is downloaded
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the manual page (roff)
    Man,
    /// Ask a running server whether it is ready; the exit status says so
    Probe {
        /// What to ask, over plain HTTP
        #[arg(default_value = "http://127.0.0.1:8000/ready")]
        url: String,
    },
}

/// A folder, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFolder {
    /// What clients may call what is in it.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
}

impl FromStr for NamedFolder {
    type Err = &'static str;

    /// From `NAME=DIR`, or from `DIR`, which names itself.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((name, folder)) = text.split_once('=') {
            return Ok(Self { name: name.to_owned(), folder: folder.into() });
        }
        let folder = PathBuf::from(text);
        // "." has a name only when it is looked up.
        let whole = folder.canonicalize();
        let name =
            whole.as_deref().unwrap_or(&folder).file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self { name: name.ok_or("this folder has no name: give it one, NAME=DIR")?, folder })
    }
}
