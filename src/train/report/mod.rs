//! `trainer report`: results of several evaluations side by side, with paired differences and a plot.

mod groups;
pub mod interval;
mod plot;
mod table;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::evaluate::results;
use super::files;
use groups::Groups;
pub use plot::Axis;

/// What to put side by side.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Results files of `trainer evaluate --json`. Records that differ in nothing but the model's place (or the seed of
    /// the randomness) are repetitions of one experiment
    #[arg(required = true, value_name = "FILE")]
    results: Vec<PathBuf>,
    /// Add the differences from this column of the table; repetitions are paired in the order of the files
    #[arg(long, value_name = "COLUMN")]
    against: Option<String>,
    /// Write the table here too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw accuracy here (SVG)
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// What accuracy is drawn against
    #[arg(long, default_value = "tokens-per-forward")]
    axis: Axis,
    /// Title of the plot
    #[arg(long, default_value = "")]
    title: String,
}

impl ReportArgs {
    /// Print the table and write the files.
    ///
    /// # Errors
    /// A file cannot be read or written, or records cannot be compared.
    pub fn run(&self) -> Result<()> {
        let mut records = Vec::new();
        for path in &self.results {
            records.extend(results::read(path)?);
        }
        let text = table::table(&Groups::of(&records)?, self.against.as_deref())?;
        print!("{text}");
        if let Some(path) = &self.markdown {
            files::replace(path, |file| Ok(file.write_all(text.as_bytes())?))?;
        }
        if let Some(path) = &self.plot {
            let picture = plot::draw(&records, self.axis, &self.title).context("nothing to draw")?;
            files::replace(path, |file| Ok(file.write_all(picture.as_bytes())?))?;
        }
        Ok(())
    }
}
