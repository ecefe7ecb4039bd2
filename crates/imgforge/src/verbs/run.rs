//! `imgforge run IMAGE`: an image in a container on this machine.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use imgforge::core::manifest::Log;
use imgforge::core::name::ImageName;
use imgforge::core::services::Services;
use imgforge::engine::Host;
use imgforge::engine::containers::{OutputSink, PublishedPort, RunRequest, Started};
use imgforge::report::{clean, human_duration};
use imgforge::{BuildOptions, CancellationToken, Error, Session, TestMode};

use crate::Global;
use crate::console::{BAD, DIM, GOOD, WARN, WORK, print, say};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::verbs::build::say_end;
use crate::verbs::secrets::SecretArgs;
use crate::verbs::{open, reporter};

/// Build an image where it changed, and run it in a container on this machine
///
/// Every port that the image exposes is published on a free port of loopback, and said. Output is shown until the
/// container ends; each service's lines begin with its name. Ctrl-C stops the services in order, a second one kills
/// them. The container and its unnamed volumes are removed at the end. The exit code is the container's.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge run guestbook\n  imgforge run guestbook -p 8080:80 -v entries:/var/lib/guestbook\n  imgforge run guestbook --detach && imgforge services guestbook\n  imgforge run guestbook -- ruby --version"
)]
pub(crate) struct Run {
    /// The image
    image: String,
    /// A command to run instead of the image's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Publish a port: [[ADDRESS:]PORT:]CONTAINER-PORT[/udp]; the address is 127.0.0.1 when not given
    #[arg(short, long, value_name = "PORT", value_parser = published)]
    publish: Vec<PublishedPort>,
    /// Environment beside the image's own
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Mount a volume or a folder: NAME:/PATH or /HOST/PATH:/PATH
    #[arg(short = 'V', long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Name the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Leave its root file system unwritable, with /run and /tmp in memory
    #[arg(long)]
    read_only: bool,
    /// Print the container's name and leave it running
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    secrets: SecretArgs,
}

fn published(text: &str) -> Result<PublishedPort, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(format!("\"{protocol}\" is not tcp, udp or sctp"));
    }
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("\"{text}\" is not a port")),
    };
    let mut words: Vec<&str> = rest.rsplitn(3, ':').collect();
    let address = if words.len() == 3 { words.pop() } else { None };
    if address.is_some_and(|address| address.parse::<std::net::IpAddr>().is_err()) {
        return Err(format!("\"{}\" is not an IP address", address.unwrap_or_default()));
    }
    Ok(PublishedPort {
        container: format!("{}/{protocol}", number(words[0])?),
        host_ip: address.unwrap_or("127.0.0.1").to_owned(),
        host_port: words.get(1).map(|word| number(word)).transpose()?,
    })
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is expected".into()),
    }
}

impl Run {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let secrets = self.secrets.read()?;
        let session = open(global)?;
        let name = session.image(&self.image)?;
        let cancel = CancellationToken::new();
        let interrupt = Interrupt::listen(cancel.clone());
        // To see what is wrong with an image whose test fails, one runs it.
        let options = BuildOptions {
            tests: TestMode::Later,
            pull: true,
            secrets,
            cancel: cancel.clone(),
            ..BuildOptions::default()
        };
        let mut reporter = interrupt.watch(reporter(global));
        let report = session.build(&[name.clone()].into(), &options, &mut *reporter)?;
        drop(reporter);
        say_end(&report, global.quiet);
        if report.interrupted {
            return Ok(ExitCode::from(130));
        }
        let planned = report.plan.targets.iter().find(|row| row.name == name.as_str());
        let Some(planned) = planned.filter(|_| report.succeeded()) else { return Ok(ExitCode::from(1)) };
        let request = self.request(session.run_request(&name, planned.fingerprint)?);
        let kill = interrupt.guard();
        let code =
            session.runtime()?.block_on(self.container(&session, &name, request, &cancel, &kill, global))?;
        Ok(ExitCode::from(code))
    }

    /// The image's own needs, and what was asked for over them.
    fn request(&self, mut request: RunRequest) -> RunRequest {
        for port in &self.publish {
            request.ports.retain(|own| own.container != port.container || own.host_port.is_some());
            request.ports.push(port.clone());
        }
        if self.read_only {
            request.tmpfs.extend(["/run", "/tmp"].map(str::to_owned));
        }
        RunRequest {
            name: self.name.clone(),
            command: self.command.clone(),
            env: self.env.iter().cloned().collect::<BTreeMap<_, _>>(),
            volumes: self.volume.clone(),
            read_only: self.read_only,
            outside: true,
            ..request
        }
    }

    async fn container(
        &self,
        session: &Session,
        image: &ImageName,
        request: RunRequest,
        cancel: &CancellationToken,
        kill: &CancellationToken,
        global: &Global,
    ) -> Result<u8, Error> {
        let engine = session.engine().await?;
        if self.detach && !engine.keeps_containers() {
            return Err(Error::Detach);
        }
        let started = engine.start(request).await?;
        if !global.quiet {
            tell(image, &started, self.detach);
        }
        if self.detach {
            print(&format!("{}\n", started.name));
            return Ok(0);
        }
        let output = Arc::new(Mutex::new(Output::new(&session.services(image)?)));
        let shown = Arc::clone(&output);
        let sink: OutputSink = Arc::new(move |is_error, piece| {
            shown.lock().unwrap_or_else(PoisonError::into_inner).piece(is_error, piece);
        });
        let grace = session.stop_time(image)?;
        let code = follow(&*engine, &started.id, sink, grace, cancel, kill).await;
        output.lock().unwrap_or_else(PoisonError::into_inner).end();
        engine.remove(&started.id).await?;
        let code = code?;
        if code != 0 && !global.quiet {
            say(BAD, "Ended", format_args!("{image} with exit code {code}"));
        }
        Ok(u8::try_from(code).unwrap_or(1))
    }
}

/// Shows the container's output to its end. `cancel` stops it in order, `kill` at once.
async fn follow(
    engine: &dyn Host,
    id: &str,
    sink: OutputSink,
    grace: Duration,
    cancel: &CancellationToken,
    kill: &CancellationToken,
) -> Result<i64, Error> {
    let ended = engine.follow(id, sink);
    let stop = async {
        cancel.cancelled().await;
        say(WORK, "Stopping", format_args!("in order, within {}; Ctrl-C again kills", human_duration(grace)));
        if let Err(error) = engine.stop(id, grace).await {
            say(BAD, "Failed", format_args!("to stop the container: {error}"));
        }
        std::future::pending::<()>().await;
    };
    let killed = async {
        kill.cancelled().await;
        engine.stop(id, Duration::ZERO).await
    };
    tokio::pin!(ended);
    tokio::select! {
        code = &mut ended => return Ok(code?),
        () = stop => {}
        killed = killed => killed?,
    }
    Ok(ended.await?)
}

fn tell(image: &ImageName, started: &Started, detached: bool) {
    let how = if detached {
        format!("stop it with: docker stop {}", started.name)
    } else {
        "Ctrl-C stops it".into()
    };
    say(GOOD, "Running", format_args!("{image} as {}; {how}", started.name));
    if let Some(lacks) = &started.lacks {
        say(WARN, "Warning", format_args!("it reaches no other machine: {lacks}"));
    }
    for (port, address) in &started.ports {
        say(DIM, "Port", format_args!("{} at {address}", port.trim_end_matches("/tcp")));
    }
}

/// Colours of services, one after another.
const COLORS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

/// The container's output, line by line: as it is into a pipe; on a terminal with the services' prefixes in colour and
/// without control codes.
struct Output {
    /// Each service's prefix and its colour.
    prefixes: Vec<(String, Style)>,
    on_terminal: bool,
    /// The line of stdout and of stderr that has not come to its end.
    begun: [Vec<u8>; 2],
}

impl Output {
    fn new(services: &Services) -> Self {
        let mut prefixes = vec![("imgforge: ".to_owned(), DIM)];
        for (number, service) in services.enabled().enumerate() {
            if let Log::Stdout { prefix: Some(prefix) } = service.log() {
                prefixes.push((prefix, COLORS[number % COLORS.len()].on_default()));
            }
        }
        Self { prefixes, on_terminal: std::io::stdout().is_terminal(), begun: [Vec::new(), Vec::new()] }
    }

    fn piece(&mut self, is_error: bool, piece: &[u8]) {
        let at = usize::from(is_error);
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.begun[at].extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun[at]);
                self.line(is_error, &line);
            }
        }
    }

    /// Shows lines that never came to an end.
    fn end(&mut self) {
        for (at, is_error) in [(0, false), (1, true)] {
            let line = std::mem::take(&mut self.begun[at]);
            if !line.is_empty() {
                self.line(is_error, &line);
            }
        }
    }

    fn line(&self, is_error: bool, line: &[u8]) {
        let styled;
        let bytes = if self.on_terminal {
            styled = self.styled(&String::from_utf8_lossy(line));
            styled.as_bytes()
        } else {
            line
        };
        // A reader that has gone away does not stop the container.
        let _ =
            if is_error { anstream::stderr().write_all(bytes) } else { anstream::stdout().write_all(bytes) };
    }

    fn styled(&self, line: &str) -> String {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let known = self
            .prefixes
            .iter()
            .find_map(|(prefix, style)| Some((prefix, style, line.strip_prefix(prefix.as_str())?)));
        match known {
            Some((prefix, style, rest)) => format!("{style}{}{style:#}{}\n", clean(prefix), clean(rest)),
            None => format!("{}\n", clean(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(container: &str, host_ip: &str, host_port: Option<u16>) -> PublishedPort {
        PublishedPort { container: container.into(), host_ip: host_ip.into(), host_port }
    }

    #[test]
    fn ports_are_published_as_docker_has_it_but_on_loopback() {
        assert_eq!(published("80"), Ok(port("80/tcp", "127.0.0.1", None)));
        assert_eq!(published("8080:80"), Ok(port("80/tcp", "127.0.0.1", Some(8080))));
        assert_eq!(published("0.0.0.0:53:53/udp"), Ok(port("53/udp", "0.0.0.0", Some(53))));
        for wrong in ["", "x", "0", "80/icmp", "x:80", "here:80:80", "65536"] {
            assert!(published(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_services_name_is_coloured_and_control_codes_are_shown() {
        let prefixes = vec![("web: ".to_owned(), COLORS[0].on_default())];
        let output = Output { prefixes, on_terminal: true, begun: [Vec::new(), Vec::new()] };
        assert_eq!(output.styled("web: GET /\u{1b}[2J\n"), "\u{1b}[36mweb: \u{1b}[0mGET /␛\n");
        assert_eq!(output.styled("other\n"), "other\n");
    }
}
