//! A file server on loopback that can also fail in the ways that servers do, and requests to servers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

/// What a server answers.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header, whose name is in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request over a connection of its own, by plain HTTP/1.0, so that the end of the answer is that of the
/// connection.
///
/// # Errors
/// When there is no answer.
pub fn ask(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply> {
    let rest = url.strip_prefix("http://").context("plain HTTP")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(
        stream,
        "{method} /{path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )?;
    let mut answer = BufReader::new(stream);
    let mut lines = answer.by_ref().lines();
    let first = lines.next().context("no answer")??;
    let status = first.split(' ').nth(1).context("no status")?.parse()?;
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut body = Vec::new();
    answer.read_to_end(&mut body)?;
    Ok(Reply { status, headers, body })
}

/// What a server does instead of answering as it should.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers this status with an empty body.
    Status(u16),
    /// Says how long the body is, sends so many bytes of it, and closes the connection.
    Cut(usize),
    /// Sends the second half of the body so much later.
    Pause(Duration),
    /// Sends these bytes, with status 200.
    Body(Vec<u8>),
    /// Sends the whole file with status 200 where a part was asked for.
    NoRange,
}

#[derive(Default)]
struct State {
    faults: Vec<(String, Fault, usize)>,
    requests: Vec<String>,
    logins: Vec<String>,
}

/// Serves a folder on loopback until it is dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Begins to serve `root` on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(root: impl Into<Utf8PathBuf>) -> Result<Self> {
        let root = root.into();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (shared, over) = (Arc::clone(&state), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let (root, shared) = (root.clone(), Arc::clone(&shared));
                // A client that goes away in the middle is no concern of the server.
                std::thread::spawn(move || answer(stream, &root, &shared).ok());
            }
        });
        Ok(Self { address, state, is_over, thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests whose path ends with `path` meet this fault, so many times.
    pub fn fail(&self, path: &str, fault: Fault, times: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).faults.push((
            path.to_owned(),
            fault,
            times,
        ));
    }

    /// What has been asked for: the path, and ` from N` when only the end of the file was wanted.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// The values of `Authorization` that have come, each as often as it came.
    pub fn logins(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).logins.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // The listener wakes up and sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers every request on loopback with one head, and keeps those of the requests.
pub struct Answering {
    host: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Answering {
    /// Begins to answer `HTTP/1.1 ANSWER`, where the answer is a status and maybe lines of headers, without a body.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(answer: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (kept, answer) = (Arc::clone(&heads), format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n"));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, answer) = (Arc::clone(&kept), answer.clone());
                std::thread::spawn(move || answer_all(&stream, &answer, &kept));
            }
        });
        Ok(Self { host, heads })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The heads of the requests since this was last asked, each with its lines.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn answer_all(mut stream: &TcpStream, answer: &str, kept: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    loop {
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        if head.is_empty() {
            return;
        }
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(head.join("\n"));
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(mut stream: TcpStream, root: &Utf8Path, state: &Mutex<State>) -> Result<()> {
    let (path, offset, login) = read_request(&stream)?;
    let fault = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if offset > 0 { format!(" from {offset}") } else { String::new() };
        state.requests.push(format!("{path}{from}"));
        state.logins.extend(login);
        let found =
            state.faults.iter_mut().find(|(end, _, times)| path.ends_with(end.as_str()) && *times > 0);
        found.map(|(_, fault, times)| {
            *times -= 1;
            fault.clone()
        })
    };
    let (status, body) = match (&fault, fs::read(root.join(decoded(path.trim_start_matches('/'))))) {
        (Some(Fault::Status(status)), _) => (*status, Vec::new()),
        (Some(Fault::Body(bytes)), _) => (200, bytes.clone()),
        (_, Err(_)) => (404, Vec::new()),
        (Some(Fault::NoRange), Ok(bytes)) => (200, bytes),
        (_, Ok(bytes)) if offset > bytes.len() => (416, Vec::new()),
        (_, Ok(bytes)) if offset > 0 => (206, bytes[offset..].to_vec()),
        (_, Ok(bytes)) => (200, bytes),
    };
    write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    match fault {
        Some(Fault::Cut(end)) => stream.write_all(&body[..end.min(body.len())])?,
        Some(Fault::Pause(pause)) => {
            let (first, second) = body.split_at(body.len() / 2);
            stream.write_all(first)?;
            std::thread::sleep(pause);
            stream.write_all(second)?;
        }
        _ => stream.write_all(&body)?,
    }
    Ok(())
}

/// The name of the file that a path of an address means.
fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// The path, from which byte on, and the login.
fn read_request(stream: &TcpStream) -> Result<(String, usize, Option<String>)> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next().context("no request")??;
    let path = first.split(' ').nth(1).context("no path")?.to_owned();
    let (mut offset, mut login) = (0, None);
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => offset = value.trim_start_matches("bytes=").trim_end_matches('-').parse()?,
            "authorization" => login = Some(value.to_owned()),
            _ => {}
        }
    }
    Ok((path, offset, login))
}
