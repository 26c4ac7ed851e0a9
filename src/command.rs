//! What the program does besides serving.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;

use crate::config::{self, Command, Flags};
use crate::inspect::Report;

/// Time that a server gets to answer a probe, per operation on its connection.
const PROBE: Duration = Duration::from_secs(3);

/// Do what was asked for instead of serving, printing to `out`; the program's exit status.
///
/// # Errors
/// A sentence: `out` takes nothing, or a probed server does not say 200.
pub fn run(command: &Command, out: &mut impl Write) -> io::Result<ExitCode> {
    match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Flags::command(), "evotoken", &mut script);
            out.write_all(&script)?;
        }
        Command::Inspect { path, json } => return inspect(path, *json, out),
        Command::Man => clap_mangen::Man::new(Flags::command()).render(out)?,
        Command::Probe { url } => probe(url)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(path: &Path, json: bool, out: &mut impl Write) -> io::Result<ExitCode> {
    let report = Report::of(path, &config::hub());
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A GET that must be answered with 200. Images without a shell have no other program for it.
fn probe(url: &str) -> io::Result<()> {
    let wrong = |what: String| io::Error::other(format!("{url}: {what}"));
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("must begin with http://".to_owned()))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let addresses = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?;
    let ask = |address| -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
        stream.set_read_timeout(Some(PROBE))?;
        stream.set_write_timeout(Some(PROBE))?;
        let path = if path.is_empty() { "/" } else { path };
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        // The status line is all that counts; whoever answers may say more than anybody wants to read.
        let mut head = Vec::new();
        stream.take(256).read_to_end(&mut head)?;
        Ok(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned())
    };
    let mut last = wrong("stands for no address".to_owned());
    for address in addresses {
        match ask(address) {
            Ok(status) if status.split(' ').nth(1) == Some("200") => return Ok(()),
            Ok(status) => return Err(wrong(format!("answered {status:?}"))),
            Err(error) => last = wrong(error.to_string()),
        }
    }
    Err(last)
}
