//! The release server as a user starts it: a process on a free port, watched, and ended whatever happens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest time until a model is loaded.
const START: Duration = Duration::from_secs(300);

/// A running server. Dropping it ends the process.
pub struct Server {
    process: Child,
    pub url: String,
    /// The server's end breaks if nobody holds ours.
    output: BufReader<ChildStdout>,
}

impl Server {
    /// On so many threads; `model`: a folder or a GGUF file, the bundled model without one.
    pub fn start(model: Option<&Path>, threads: usize, flags: &[String]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evotoken"));
        command.args(["--port", "0"]).args(flags);
        if let Some(model) = model {
            command.arg("--model").arg(model);
        }
        command.env("RAYON_NUM_THREADS", threads.to_string()).env("EVOTOKEN__LOG__LEVEL", "warn");
        let mut process = command.stdout(Stdio::piped()).spawn().context("the server does not start")?;
        let output = process.stdout.take().context("the server has no output")?;
        let mut server = Self { process, url: String::new(), output: BufReader::new(output) };
        let mut line = String::new();
        while server.output.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once(" on http://") {
                let end = address.find([' ', '\n']).unwrap_or(address.len());
                server.url = format!("http://{}", &address[..end]);
                server.wait()?;
                return Ok(server);
            }
            line.clear();
        }
        bail!("the server ended before it had an address")
    }

    fn wait(&self) -> Result<()> {
        let since = Instant::now();
        while ureq::get(format!("{}/ready", self.url)).call().is_err() {
            if since.elapsed() > START {
                bail!("the server was not ready after {} s", START.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What it counted so far.
    pub fn counts(&self) -> Result<Counts> {
        let text = ureq::get(format!("{}/metrics", self.url)).call()?.into_body().read_to_string()?;
        let value = |series: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
        };
        let phase = |name: &str| Timed {
            seconds: value(&format!("evotoken_step_seconds_sum{{phase=\"{name}\"}}")),
            count: value(&format!("evotoken_step_seconds_count{{phase=\"{name}\"}}")),
        };
        Ok(Counts {
            refresh: phase("refresh"),
            refinement: phase("refinement"),
            mixed: phase("mixed"),
            ticks: value("evotoken_ticks_total"),
            rows: value("evotoken_tick_rows_sum"),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that is gone already needs no end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ticks of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timed {
    pub seconds: f64,
    pub count: f64,
}

impl Timed {
    fn since(self, before: Self) -> Self {
        Self { seconds: self.seconds - before.seconds, count: self.count - before.count }
    }

    /// Milliseconds of one; not a number if there were none.
    pub fn ms(self) -> f64 {
        1e3 * self.seconds / self.count
    }
}

/// What the server's metrics say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub refresh: Timed,
    pub refinement: Timed,
    pub mixed: Timed,
    pub ticks: f64,
    pub rows: f64,
}

impl Counts {
    pub fn since(self, before: Self) -> Self {
        Self {
            refresh: self.refresh.since(before.refresh),
            refinement: self.refinement.since(before.refinement),
            mixed: self.mixed.since(before.mixed),
            ticks: self.ticks - before.ticks,
            rows: self.rows - before.rows,
        }
    }

    /// Seconds of all ticks.
    pub fn seconds(self) -> f64 {
        self.refresh.seconds + self.refinement.seconds + self.mixed.seconds
    }
}
