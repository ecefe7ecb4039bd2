//! What a Dockerfile says of the container: the configuration of its last stage.

use std::collections::BTreeMap;

use imgforge_oci::Healthcheck;
use imgforge_syntax::Located;

use super::program::golang;
use super::{Dockerfile, From, Instruction, Scope, Walker, find_stage};

/// A command in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `CMD nginx -g 'daemon off;'`: a line that a shell gets, `/bin/sh -c` unless SHELL says otherwise.
    Shell(String),
    /// `CMD ["nginx"]`: an argument vector.
    Exec(Vec<String>),
}

/// What the last stage says, with `ARG`s and `ENV`s expanded; what hangs on a variable that is not known is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// ENTRYPOINT.
    pub entrypoint: Option<Located<Command>>,
    /// CMD.
    pub cmd: Option<Located<Command>>,
    /// SHELL, for commands that are lines.
    pub shell: Option<Vec<String>>,
    /// ENV.
    pub env: BTreeMap<String, Located<String>>,
    /// EXPOSE, as `80/tcp`; ranges are spread out.
    pub ports: Vec<Located<String>>,
    /// VOLUME.
    pub volumes: Vec<Located<String>>,
    /// USER.
    pub user: Option<Located<String>>,
    /// STOPSIGNAL.
    pub stop_signal: Option<Located<String>>,
    /// HEALTHCHECK; `NONE` in it takes that of the base away.
    pub healthcheck: Option<Located<Healthcheck>>,
    /// Whether CMD stands in this stage: then an ENTRYPOINT does not take it away.
    has_cmd: bool,
}

impl Dockerfile {
    /// The configuration of the last stage, through other stages of the file that it stands on.
    pub fn config(&self, args: &BTreeMap<String, String>) -> Config {
        let mut stages: Vec<Config> = Vec::new();
        Walker::new(self, args).walk(|instruction, known, scope| {
            if instruction.keyword() == "FROM" {
                let image = From::of(instruction).image;
                let image = scope.expand(image.text(), instruction.escape()).unwrap_or_default();
                let config = find_stage(known, &image).map(|stage| stages[stage].clone());
                stages.push(Config { has_cmd: false, ..config.unwrap_or_default() });
            } else if let Some(config) = stages.last_mut() {
                config.add(instruction, scope);
            }
        });
        stages.pop().unwrap_or_default()
    }
}

impl Config {
    fn add(&mut self, instruction: &Instruction, scope: &Scope) {
        let span = instruction.span();
        let escape = instruction.escape();
        let words = || {
            let words = instruction.operands().iter();
            words.filter_map(|word| Some(Located::new(scope.expand(word.text(), escape)?, word.span())))
        };
        let one = || words().next().map(|word| Located::new(word.value, span));
        match instruction.keyword() {
            "ENTRYPOINT" => {
                self.entrypoint = Some(Located::new(command(instruction), span));
                self.cmd = self.cmd.take().filter(|_| self.has_cmd);
            }
            "CMD" => {
                self.cmd = Some(Located::new(command(instruction), span));
                self.has_cmd = true;
            }
            "SHELL" => {
                let words = instruction.operands().iter().map(|word| word.text().to_owned());
                self.shell = Some(words.collect());
            }
            "ENV" => {
                for (name, value) in instruction.env_pairs() {
                    if let Some(value) = scope.expand(&value, escape) {
                        self.env.insert(name, Located::new(value, span));
                    }
                }
            }
            "EXPOSE" => {
                for word in words() {
                    self.ports.extend(ports(&word.value).map(|port| Located::new(port, word.span)));
                }
            }
            "VOLUME" => self.volumes.extend(words().filter(|volume| volume.value.starts_with('/'))),
            "USER" => self.user = one(),
            "STOPSIGNAL" => self.stop_signal = one(),
            "HEALTHCHECK" => self.healthcheck = Some(Located::new(healthcheck(instruction), span)),
            _ => {}
        }
    }
}

fn command(instruction: &Instruction) -> Command {
    match instruction.json() {
        Some(words) => Command::Exec(words.iter().map(|word| word.text().to_owned()).collect()),
        None => Command::Shell(after_keyword(instruction.text()).to_owned()),
    }
}

fn after_keyword(text: &str) -> &str {
    text.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim())
}

/// `80`, `53/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> impl Iterator<Item = String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let protocol = protocol.to_ascii_lowercase();
    let range = match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) if from > 0 && matches!(protocol.as_str(), "tcp" | "udp" | "sctp") => {
            Some(from..=to)
        }
        _ => None,
    };
    range.into_iter().flatten().map(move |port| format!("{port}/{protocol}"))
}

/// `--interval=30s CMD LINE`, `CMD ["PROGRAM"]`, `NONE`.
fn healthcheck(instruction: &Instruction) -> Healthcheck {
    let mut rest = after_keyword(instruction.text());
    while rest.starts_with("--") {
        rest = after_keyword(rest);
    }
    if !rest.get(..3).is_some_and(|kind| kind.eq_ignore_ascii_case("CMD")) {
        return Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() };
    }
    let line = rest[3..].trim();
    let test = match serde_json::from_str::<Vec<String>>(line) {
        Ok(argv) => ["CMD".to_owned()].into_iter().chain(argv).collect(),
        Err(_) => vec!["CMD-SHELL".into(), line.to_owned()],
    };
    let flag = |name: &str| {
        instruction
            .flags()
            .iter()
            .find_map(|flag| flag.text().strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
    };
    let time = |name: &str| {
        let nanos = flag(name).and_then(golang::duration);
        nanos.and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or_default()
    };
    Healthcheck {
        test,
        interval: time("interval"),
        timeout: time("timeout"),
        start_period: time("start-period"),
        start_interval: time("start-interval"),
        retries: flag("retries").and_then(|text| text.parse().ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Dockerfile::parse(text).unwrap().config(&BTreeMap::from([("P".to_owned(), "81".to_owned())]))
    }

    #[test]
    fn the_last_stage_says_what_its_container_is() {
        let config = config(
            "ARG P\nFROM a AS base\nENV A=1 B=\"x $A y\"\nEXPOSE 80\nUSER nobody\nCMD [\"x\"]\n\
             FROM other\nCMD never\n\
             FROM base\nARG P\nEXPOSE $P/udp 90-91\nVOLUME /a /b\nVOLUME [\"/c d\"]\nENV B=2\n\
             ENTRYPOINT [\"/init\", \"a\"]\nCMD run it && \\\n  wait\nSTOPSIGNAL SIGQUIT\n\
             HEALTHCHECK --interval=1m30s --retries=2 --timeout=500ms CMD curl -f x || exit 1\n",
        );
        let values = |all: &[Located<String>]| all.iter().map(|v| v.value.clone()).collect::<Vec<_>>();
        assert_eq!(values(&config.ports), ["80/tcp", "81/udp", "90/tcp", "91/tcp"]);
        assert_eq!(values(&config.volumes), ["/a", "/b", "/c d"]);
        let env: Vec<_> =
            config.env.iter().map(|(name, value)| (name.as_str(), value.value.as_str())).collect();
        assert_eq!(env, [("A", "1"), ("B", "2")]);
        assert_eq!(config.user.unwrap().value, "nobody");
        assert_eq!(config.stop_signal.unwrap().value, "SIGQUIT");
        assert_eq!(config.entrypoint.unwrap().value, Command::Exec(vec!["/init".into(), "a".into()]));
        assert_eq!(config.cmd.unwrap().value, Command::Shell("run it &&   wait".into()));
        let check = config.healthcheck.unwrap().value;
        assert_eq!(check.test, ["CMD-SHELL", "curl -f x || exit 1"]);
        assert_eq!((check.interval, check.timeout), (90_000_000_000, 500_000_000));
        assert_eq!((check.start_period, check.retries), (0, 2));
    }

    #[test]
    fn an_entrypoint_takes_away_the_command_of_its_base() {
        let found = config("FROM a AS b\nCMD x\nFROM b\nENTRYPOINT [\"y\"]\nHEALTHCHECK NONE\n");
        assert_eq!(found.cmd, None);
        assert_eq!(found.healthcheck.unwrap().value.test, ["NONE"]);
        let found = config("FROM a\nCMD x\nENTRYPOINT [\"y\"]\n");
        assert_eq!(found.cmd.unwrap().value, Command::Shell("x".into()));
        assert_eq!((ports("x").count(), ports("0").count()), (0, 0));
    }
}
