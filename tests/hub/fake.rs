//! A hub on this machine, of one model: as the real one answers, with faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

/// The model's name.
pub const NAME: &str = "test/tiny";
/// The commits that it may have.
pub const FIRST: &str = "1111111111111111111111111111111111111111";
pub const SECOND: &str = "2222222222222222222222222222222222222222";

/// What it has, and what goes wrong.
#[derive(Default)]
pub struct State {
    /// Contents by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The commit of `main`.
    pub commit: String,
    /// Names in the list that are not there.
    pub promised: Vec<String>,
    /// Connections end once this many bytes of a file's body have been sent, by its name.
    pub cut: BTreeMap<String, usize>,
    /// The same, but they stay open and silent.
    pub stall: BTreeMap<String, usize>,
    /// Whether a request for the rest of a file is answered with all of it.
    pub whole_only: bool,
    /// What every request is answered with instead.
    pub status: Option<u16>,
    /// All requests: path, range, authorization.
    pub seen: Vec<Seen>,
}

/// A request.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

/// The hub; it ends with the test program.
pub struct FakeHub {
    pub address: String,
    pub state: Arc<Mutex<State>>,
}

impl FakeHub {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State { files, commit: FIRST.to_owned(), ..State::default() }));
        let (shared, base) = (Arc::clone(&state), address.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, base) = (Arc::clone(&shared), base.clone());
                // A client that goes away is no fault.
                thread::spawn(move || drop(answer(&stream, &state, &base)));
            }
        });
        Self { address, state }
    }

    /// Change what it does.
    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no panic"));
    }

    /// Paths that were asked for since the last time.
    pub fn taken(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().expect("no panic").seen)
    }
}

/// What names a content; it has the length of a real one.
pub fn etag(content: &[u8]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in content {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{hash:064x}")
}

fn request(stream: &TcpStream) -> std::io::Result<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut seen = Seen { path: line.split(' ').nth(1).unwrap_or_default().to_owned(), ..Seen::default() };
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(seen);
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        let value = Some(value.trim().to_owned());
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = value,
            "authorization" => seen.authorization = value,
            _ => {}
        }
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>, base: &str) -> std::io::Result<()> {
    let seen = request(stream)?;
    let mut state = state.lock().expect("no panic");
    state.seen.push(seen.clone());
    if let Some(status) = state.status {
        return plain(stream, status, "");
    }
    let parts: Vec<&str> = seen.path.trim_start_matches('/').split('/').collect();
    let known = |revision: &str| revision == "main" || revision == state.commit;
    match parts.as_slice() {
        ["api", "models", "test", "tiny", "revision", revision] if known(revision) => {
            let names = state.files.keys().chain(&state.promised);
            let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
            plain(stream, 200, &json!({"sha": state.commit, "siblings": siblings}).to_string())
        }
        ["test", "tiny", "resolve", revision, name] if known(revision) => match state.files.get(*name) {
            None => plain(stream, 404, ""),
            // Large files are elsewhere.
            Some(content) if name.ends_with(".safetensors") => {
                let (commit, etag) = (&state.commit, etag(content));
                let headers = format!(
                    "X-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{etag}\"\r\nLocation: {base}/large/{name}"
                );
                head(stream, 302, &headers, 0)
            }
            Some(content) => {
                let headers = format!("X-Repo-Commit: {}\r\nETag: \"{}\"", state.commit, etag(content));
                let (content, name) = (content.clone(), (*name).to_owned());
                give(stream, state, &seen, (&name, &content, &headers))
            }
        },
        ["large", name] => {
            let content = state.files.get(*name).cloned().unwrap_or_default();
            let name = (*name).to_owned();
            give(stream, state, &seen, (&name, &content, "ETag: \"elsewhere\""))
        }
        _ => plain(stream, 404, ""),
    }
}

fn head(mut stream: &TcpStream, status: u16, headers: &str, length: usize) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} OK\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n\r\n"
    )
}

fn plain(mut stream: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    head(stream, status, "Content-Type: application/json", body.len())?;
    stream.write_all(body.as_bytes())
}

/// A file (name, content, headers), or the part of it that is asked for.
fn give(
    mut stream: &TcpStream,
    state: std::sync::MutexGuard<'_, State>,
    seen: &Seen,
    (name, content, headers): (&str, &[u8], &str),
) -> std::io::Result<()> {
    let range = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
    let (start, end) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let start: usize = start.parse().expect("a number");
    let probe = !end.is_empty();
    let end = end.parse().map_or(content.len(), |last: usize| last + 1);
    if start >= content.len() {
        return plain(stream, 416, "");
    }
    let (status, start) = if state.whole_only && !probe { (200, 0) } else { (206, start) };
    let of = format!("{headers}\r\nContent-Range: bytes {start}-{}/{}", end - 1, content.len());
    head(stream, status, &of, end - start)?;
    let limit = |limits: &BTreeMap<String, usize>| limits.get(name).filter(|_| !probe).copied();
    let (cut, stall) = (limit(&state.cut), limit(&state.stall));
    drop(state);
    let stop = cut.or(stall).unwrap_or(end).clamp(start, end);
    stream.write_all(&content[start..stop])?;
    if stall.is_some() {
        // Until the client goes.
        let _ = stream.peek(&mut [0])?;
    }
    Ok(())
}
