//! Other people's engines on the same work: the scripts of a folder, in their own Python.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use evotoken::model::ModelConfig;
use serde::Deserialize;

use crate::work::Work;

/// llama.cpp's repacked weights for the tile unit end llama-cpp-python 0.3.36 with a segmentation fault when it runs the blocks of a
/// quantised file (seen on a Xeon with AMX): without them its usual kernels run.
const WITHOUT_REPACKING: &str = "import runpy, sys, llama_cpp as ll
make = ll.llama_model_default_params
def plain():
    params = make()
    params.use_extra_bufts = False
    return params
ll.llama_model_default_params = plain
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')";

/// Where the peers are.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// Folder of `torch_peer.py` and `llama_peer.py`.
    pub scripts: Option<PathBuf>,
    /// A Python that has PyTorch.
    pub torch: Option<PathBuf>,
    /// A Python that has llama-cpp-python.
    pub llama: Option<PathBuf>,
}

/// What a peer prints.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    pub nfe: usize,
    pub seconds: f64,
    #[serde(default)]
    pub refresh_ms: Option<f64>,
    #[serde(default)]
    pub refine_ms: Option<f64>,
    #[serde(default)]
    pub step_ms: Option<f64>,
}

impl Peers {
    /// The work by PyTorch, `batch` answers in lock step; `None` without a PyTorch.
    pub fn torch(
        &self,
        model: &Path,
        work: &Work,
        dtype: &str,
        batch: usize,
        threads: usize,
    ) -> Result<Option<Report>> {
        let (Some(scripts), Some(python)) = (&self.scripts, &self.torch) else { return Ok(None) };
        let mut command = Command::new(python);
        command.arg(scripts.join("torch_peer.py")).arg("--model").arg(model);
        command.args(["--method", work.method, "--cache", work.cache, "--dtype", dtype]);
        size(&mut command, work, threads).args(["--batch", &batch.to_string()]);
        report(command).map(Some)
    }

    /// The work by llama.cpp, always over the whole canvas; `None` without a llama.cpp.
    pub fn llama(
        &self,
        model: &Path,
        config: &ModelConfig,
        work: &Work,
        threads: usize,
    ) -> Result<Option<Report>> {
        let (Some(scripts), Some(python)) = (&self.scripts, &self.llama) else { return Ok(None) };
        let mut command = Command::new(python);
        command.args(["-c", WITHOUT_REPACKING]).arg(scripts.join("llama_peer.py")).arg("--model").arg(model);
        command.args(["--vocab", &config.vocab.to_string(), "--mask", &config.mask_id.to_string()]);
        size(&mut command, work, threads);
        report(command).map(Some)
    }

    /// The best that PyTorch's matrix product does with this type, in GFLOP/s; `None` without a PyTorch.
    pub fn peak(&self, dtype: &str, threads: usize) -> Result<Option<f64>> {
        let Some(python) = &self.torch else { return Ok(None) };
        let mut command = Command::new(python);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/torch_peak.py");
        command.args([script, &threads.to_string(), dtype]);
        Ok(Some(output(command)?.trim().parse()?))
    }
}

fn size<'a>(command: &'a mut Command, work: &Work, threads: usize) -> &'a mut Command {
    for (flag, value) in [
        ("--prompt-len", work.prompt),
        ("--gen", work.answer),
        ("--block", work.block),
        ("--steps", work.steps),
        ("--threads", threads),
    ] {
        command.args([flag, &value.to_string()]);
    }
    command
}

fn report(command: Command) -> Result<Report> {
    let text = output(command)?;
    let line = text.lines().last().context("a peer printed nothing")?;
    let report: Report = serde_json::from_str(line).with_context(|| format!("a peer printed {line}"))?;
    ensure!(report.seconds > 0.0, "a peer took no time");
    Ok(report)
}

fn output(mut command: Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.stderr(Stdio::piped()).output().with_context(|| name.clone())?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
