//! EXPOSE.

use super::{Evaluator, missing};
use crate::program::instruction::{Missing, Word, problem};
use crate::program::shell;
use imgforge_oci::Empty;

impl Evaluator<'_> {
    pub(super) fn expose(&mut self, words: &[Word]) -> Result<String, Missing> {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.value.cmp(&b.value));
        let ports = sorted.into_iter().map(|word| {
            let lookup = |name: &str| self.scope.lookup(name);
            let texts = missing(shell::words(&word.value, self.rules(), &lookup), word.span)?;
            let ports = texts.iter().map(|text| {
                let help = Some("a number up to 65535 or a range, and maybe /tcp, /udp or /sctp");
                let message = format!("{text} is no port");
                expanded_ports(text).ok_or_else(|| problem(word.span, message, help).into())
            });
            Missing::all(ports)
        });
        let ports = Missing::all(ports)?.into_iter().flatten().flatten().collect::<Vec<_>>();
        let text = format!("EXPOSE [{}]", ports.join(" "));
        let exposed = self.config.config.exposed_ports.get_or_insert_default();
        exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
        Ok(text)
    }
}

/// `80`, `53/udp`, `8000-8010`; the parts for a host's address and port, which have no meaning, are checked by number.
pub(crate) fn expanded_ports(text: &str) -> Option<Vec<String>> {
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (numbers, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        protocol @ ("tcp" | "udp" | "sctp") => protocol.to_owned(),
        _ => return None,
    };
    let range = |text: &str| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let number =
            |text: &str| text.parse::<u16>().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
        Some((number(from)?, number(to)?)).filter(|(from, to)| from <= to)
    };
    let (from, to) = range(numbers)?;
    if let Some(host) = host {
        let (address, port) = match host.rsplit_once(':') {
            Some((address, port)) => (address.trim_matches(['[', ']']), port),
            None => ("", host),
        };
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return None;
        }
        if !port.is_empty() {
            let (start, end) = range(port)?;
            if end - start != to - from && from != to {
                return None;
            }
        }
    }
    Some((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}
