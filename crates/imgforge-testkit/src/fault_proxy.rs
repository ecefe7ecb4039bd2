//! A proxy in front of a registry that counts what goes through, and fails on demand or at random.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::token_server::{TokenServer, needed};

/// What the proxy does instead of passing a request on as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers this status; the registry hears nothing.
    Status(u16),
    /// Answers this status with `Retry-After`; the registry hears nothing.
    RetryAfter(u16, String),
    /// Closes the connection after so many bytes of the request's body. The registry gets what came before, unless the
    /// proxy [waits for whole requests](FaultProxy::wait_for_whole_requests).
    CutUp(u64),
    /// The registry does what is asked, but its answer is lost.
    Lost,
    /// Closes the connection after so many bytes of the answer's body.
    CutDown(u64),
    /// Waits for so long, then passes the request on as it should.
    Delay(Duration),
    /// Does nothing for so long, then closes the connection.
    Stall(Duration),
    /// Sends so many bytes of the answer's body, and nothing for so long.
    StallDown(u64, Duration),
    /// Takes so many bytes of the request's body, and no more for so long.
    StallUp(u64, Duration),
    /// Ends the body after so many bytes, with a `Content-Length` that fits.
    Truncate(u64),
    /// Turns the first byte of the answer's body into another one.
    Spoil,
    /// Answers the whole content where a part was asked for.
    NoRange,
    /// Answers these headers and this body with status 200; the registry hears nothing.
    Answer(Vec<(String, String)>, Vec<u8>),
    /// Answers this status and body; the registry hears nothing.
    StatusAnswer(u16, Vec<u8>),
}

impl Fault {
    /// Its kind, in a word.
    pub fn kind(&self) -> String {
        match self {
            Self::Status(status) | Self::RetryAfter(status, _) | Self::StatusAnswer(status, _) => {
                status.to_string()
            }
            Self::CutUp(_) => "cut up".to_owned(),
            Self::Lost => "lost".to_owned(),
            Self::CutDown(_) => "cut down".to_owned(),
            Self::Delay(_) => "delay".to_owned(),
            Self::Stall(_) | Self::StallDown(..) | Self::StallUp(..) => "stall".to_owned(),
            Self::Truncate(_) => "truncated".to_owned(),
            Self::Spoil => "spoiled".to_owned(),
            Self::NoRange => "no range".to_owned(),
            Self::Answer(..) => "answer".to_owned(),
        }
    }
}

/// One request that came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `GET`.
    pub method: String,
    /// With the query.
    pub target: String,
    /// Bytes of its body that came.
    pub up: u64,
    /// Bytes of the answer's body that were sent.
    pub down: u64,
    /// The answer's status; 0 when there was none.
    pub status: u16,
    /// The [kind](Fault::kind) of fault that it met.
    pub fault: Option<String>,
}

struct Rule {
    method: String,
    part: String,
    /// So many that fit are passed over first.
    after: usize,
    fault: Fault,
    times: usize,
}

struct Random {
    generator: StdRng,
    rate: f64,
    faults: Vec<Fault>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    random: Option<Random>,
    seen: Vec<Seen>,
    met: usize,
    /// Requests that are under way.
    active: usize,
    waits_for_whole: bool,
}

struct Shared {
    registry: String,
    address: SocketAddr,
    tokens: Option<TokenServer>,
    state: Mutex<State>,
    is_over: AtomicBool,
}

/// Passes requests on to a registry until it is dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// In front of the registry at `HOST:PORT`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(registry: &str) -> Result<Self> {
        Self::start_with(registry, None)
    }

    /// The same, asking for tokens of a stand-in that it serves at `/token`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start_with_tokens(registry: &str, tokens: TokenServer) -> Result<Self> {
        Self::start_with(registry, Some(tokens))
    }

    fn start_with(registry: &str, tokens: Option<TokenServer>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let registry = registry.to_owned();
        let shared =
            Shared { registry, address, tokens, state: Mutex::default(), is_over: AtomicBool::default() };
        let shared = Arc::new(shared);
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if served.is_over.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&served);
                // Whoever goes away in the middle is no concern of the proxy.
                std::thread::spawn(move || shared.serve(stream).ok());
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// Requests with this method (any, when it is empty) and this part in path and query meet a fault, so many times.
    pub fn fail(&self, method: &str, part: &str, fault: Fault, times: usize) {
        self.fail_after(method, part, 0, fault, times);
    }

    /// The same, once `after` such requests have gone well.
    pub fn fail_after(&self, method: &str, part: &str, after: usize, fault: Fault, times: usize) {
        let (method, part) = (method.to_owned(), part.to_owned());
        self.state().rules.push(Rule { method, part, after, fault, times });
    }

    /// Requests meet one of `faults` at random, at this rate between 0 and 1.
    pub fn fail_at_random(&self, seed: u64, rate: f64, faults: Vec<Fault>) {
        self.state().random = Some(Random { generator: StdRng::seed_from_u64(seed), rate, faults });
    }

    /// No more faults.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.random = None;
    }

    /// Request bodies are read whole before the registry hears of them, as nginx does unless it is told otherwise.
    pub fn wait_for_whole_requests(&self) {
        self.state().waits_for_whole = true;
    }

    /// How many requests have met a fault so far: those included that still stall.
    pub fn met(&self) -> usize {
        self.state().met
    }

    /// The requests that have ended since the last call. Those under way are waited for a little: a client may have its
    /// answer before the proxy is through with the request.
    pub fn take_seen(&self) -> Vec<Seen> {
        let start = Instant::now();
        while self.state().active > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::mem::take(&mut self.state().seen)
    }

    /// The stand-in for a token server.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn tokens(&self) -> &TokenServer {
        self.shared.tokens.as_ref().expect("started with tokens")
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // The listener wakes up and sees that it is over.
        let _ = TcpStream::connect(self.shared.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The first lines of a request or an answer.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let first = line.trim_end().to_owned();
        anyhow::ensure!(!first.is_empty(), "nothing came");
        let mut headers = Vec::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { first, headers })
    }

    fn word(&self, number: usize) -> &str {
        self.first.split(' ').nth(number).unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn text(&self) -> String {
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}\r\n", self.first)
    }
}

/// A body of a known length, or chunked.
fn read_body(
    head: &Head,
    reader: &mut impl BufRead,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut pass = |reader: &mut dyn Read, mut left: u64| -> Result<()> {
        let mut buffer = [0; 1 << 14];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = reader.read(&mut buffer[..most])?;
            anyhow::ensure!(read > 0, "the body ends too early");
            take(&buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    };
    if head.get("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).context("a chunk's length")?;
            pass(reader, length)?;
            reader.read_line(&mut line)?;
            if length == 0 {
                return Ok(());
            }
        }
    }
    let length = head.get("content-length").map_or(Ok(0), str::parse)?;
    pass(reader, length)
}

impl Shared {
    /// One request; then the connection is closed.
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut client = BufReader::new(stream.try_clone()?);
        let head = Head::read(&mut client)?;
        let mut seen =
            Seen { method: head.word(0).to_owned(), target: head.word(1).to_owned(), ..Seen::default() };
        let state = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state().active += 1;
        let result = self.answer(&head, &mut client, &stream, &mut seen);
        {
            let mut state = state();
            state.active -= 1;
            state.seen.push(seen);
        }
        // What the client still sends would turn the close into a reset, and the answer could be lost.
        if result.is_ok() {
            stream.shutdown(Shutdown::Write)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            io::copy(&mut client, &mut io::sink())?;
        }
        stream.shutdown(Shutdown::Both)?;
        result
    }

    fn answer(
        &self,
        head: &Head,
        client: &mut BufReader<TcpStream>,
        mut stream: &TcpStream,
        seen: &mut Seen,
    ) -> Result<()> {
        let fault = self.fault(&seen.method, &seen.target);
        seen.fault = fault.as_ref().map(Fault::kind);
        let mut reply =
            |status: u16, headers: &[(String, String)], body: &[u8], seen: &mut Seen| -> Result<()> {
                seen.status = status;
                seen.down = body.len() as u64;
                let headers: String =
                    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let length = body.len();
                let text = format!(
                    "HTTP/1.1 {status} -\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(text.as_bytes())?;
                if seen.method != "HEAD" {
                    stream.write_all(body)?;
                }
                Ok(())
            };
        match &fault {
            Some(Fault::Status(status)) => return reply(*status, &[], b"", seen),
            Some(Fault::RetryAfter(status, after)) => {
                return reply(*status, &[("Retry-After".to_owned(), after.clone())], b"", seen);
            }
            Some(Fault::StatusAnswer(status, body)) => return reply(*status, &[], body, seen),
            Some(Fault::Answer(headers, body)) => return reply(200, headers, body, seen),
            Some(Fault::Delay(time)) => std::thread::sleep(*time),
            Some(Fault::Stall(time)) => {
                std::thread::sleep(*time);
                anyhow::bail!("stalled");
            }
            _ => {}
        }
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        if let Some(tokens) = &self.tokens {
            let authorization = head.get("authorization");
            if path == "/token" {
                let mut body = Vec::new();
                read_body(head, client, |part| {
                    body.extend_from_slice(part);
                    Ok(())
                })?;
                let (status, json) = tokens.issue(query, authorization, &String::from_utf8_lossy(&body));
                return reply(status, &[], json.as_bytes(), seen);
            }
            let scopes = needed(&seen.method, path, query);
            if !tokens.allows(authorization, &scopes) {
                let challenge = format!(
                    "Bearer realm=\"http://{}/token\",service=\"stand-in\",scope=\"{}\"",
                    self.address,
                    scopes.first().map_or("", String::as_str)
                );
                let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
                return reply(401, &[("WWW-Authenticate".to_owned(), challenge)], body.as_bytes(), seen);
            }
        }
        self.pass_on(head, client, stream, fault.as_ref(), seen)
    }

    fn pass_on(
        &self,
        head: &Head,
        client: &mut BufReader<TcpStream>,
        mut stream: &TcpStream,
        fault: Option<&Fault>,
        seen: &mut Seen,
    ) -> Result<()> {
        let mut head = Head { first: head.first.clone(), headers: head.headers.clone() };
        head.set("connection", "close");
        if self.tokens.is_some() {
            head.headers.retain(|(name, _)| name != "authorization");
        }
        if fault == Some(&Fault::NoRange) {
            head.headers.retain(|(name, _)| name != "range");
        }
        let is_chunked = head.get("transfer-encoding").is_some();
        let waits = self.state.lock().unwrap_or_else(PoisonError::into_inner).waits_for_whole || is_chunked;
        let mut body = Vec::new();
        let mut upstream = None;
        if !waits {
            upstream = Some(self.connect(&head)?);
        }
        read_body(&head, client, |part| {
            let (most, stall) = match fault {
                Some(Fault::CutUp(most)) => (*most, None),
                Some(Fault::StallUp(most, time)) => (*most, Some(*time)),
                _ => (u64::MAX, None),
            };
            let keep = usize::try_from(most.saturating_sub(seen.up)).unwrap_or(usize::MAX).min(part.len());
            seen.up += keep as u64;
            match &mut upstream {
                Some(upstream) => upstream.write_all(&part[..keep])?,
                None => body.extend_from_slice(&part[..keep]),
            }
            if keep < part.len() {
                std::thread::sleep(stall.unwrap_or_default());
                anyhow::bail!("cut");
            }
            Ok(())
        })?;
        let mut upstream = match upstream {
            Some(upstream) => upstream,
            None => {
                head.headers.retain(|(name, _)| name != "transfer-encoding");
                if is_chunked || !body.is_empty() {
                    head.set("content-length", &body.len().to_string());
                }
                let mut upstream = self.connect(&head)?;
                upstream.write_all(&body)?;
                upstream
            }
        };
        upstream.flush()?;
        let mut registry = BufReader::new(upstream);
        let mut answer = Head::read(&mut registry)?;
        if fault == Some(&Fault::Lost) {
            anyhow::bail!("lost");
        }
        seen.status = answer.word(1).parse()?;
        answer.set("connection", "close");
        let has_body = seen.method != "HEAD" && !matches!(seen.status, 204 | 304);
        let length = answer.get("content-length").and_then(|text| text.parse::<u64>().ok());
        let most = match fault {
            Some(Fault::CutDown(most) | Fault::StallDown(most, _) | Fault::Truncate(most)) => *most,
            _ => u64::MAX,
        };
        if let (Some(Fault::Truncate(most)), Some(length)) = (fault, length) {
            answer.set("content-length", &length.min(*most).to_string());
        }
        let is_chunked = answer.get("transfer-encoding").is_some();
        stream.write_all(answer.text().as_bytes())?;
        if !has_body {
            return Ok(());
        }
        read_body(&answer_as_sent(&answer, length), &mut registry, |part| {
            let keep = usize::try_from(most.saturating_sub(seen.down)).unwrap_or(usize::MAX).min(part.len());
            let mut part = part.to_vec();
            if fault == Some(&Fault::Spoil) && seen.down == 0 {
                part[0] ^= 1;
            }
            if is_chunked {
                write!(stream, "{keep:x}\r\n")?;
            }
            stream.write_all(&part[..keep])?;
            if is_chunked {
                stream.write_all(b"\r\n")?;
            }
            seen.down += keep as u64;
            if keep < part.len() {
                if let Some(Fault::StallDown(_, time)) = fault {
                    std::thread::sleep(*time);
                }
                anyhow::bail!("cut");
            }
            Ok(())
        })?;
        if is_chunked {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }

    /// A connection to the registry, with a request's first lines sent.
    fn connect(&self, head: &Head) -> Result<TcpStream> {
        let mut upstream = TcpStream::connect(&self.registry)?;
        upstream.write_all(head.text().as_bytes())?;
        Ok(upstream)
    }

    fn fault(&self, method: &str, target: &str) -> Option<Fault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |rule: &&mut Rule| {
            rule.times > 0 && (rule.method.is_empty() || rule.method == method) && target.contains(&rule.part)
        };
        if let Some(rule) = state.rules.iter_mut().find(fits) {
            if rule.after > 0 {
                rule.after -= 1;
            } else {
                rule.times -= 1;
                let fault = rule.fault.clone();
                state.met += 1;
                return Some(fault);
            }
        }
        let random = state.random.as_mut()?;
        let meets = random.generator.gen_bool(random.rate);
        let fault = meets.then(|| random.faults[random.generator.gen_range(0..random.faults.len())].clone());
        state.met += usize::from(meets);
        fault
    }
}

/// The answer's head with the length that the registry gave, which is what comes.
fn answer_as_sent(answer: &Head, length: Option<u64>) -> Head {
    let mut sent = Head { first: answer.first.clone(), headers: answer.headers.clone() };
    if let Some(length) = length {
        sent.set("content-length", &length.to_string());
    }
    sent
}
