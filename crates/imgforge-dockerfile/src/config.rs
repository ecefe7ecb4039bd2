//! What a Dockerfile says of the container: the configuration of its last stage.

use std::collections::BTreeMap;

use imgforge_oci::Healthcheck;
use imgforge_syntax::Located;

use crate::Dockerfile;
use crate::program::eval::expose::expanded_ports;
use crate::program::instruction::{Kind, Word};
use crate::program::{Base, Seen};

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
    /// Returns the configuration of the last stage, through other stages of the file that it stands on.
    pub fn config(&self, args: &BTreeMap<String, String>) -> Config {
        let program = self.program(args);
        let mut stages: Vec<Config> = Vec::new();
        let enter = |stages: &mut Vec<Config>, number: usize| {
            for stage in &program.stages[stages.len()..=number] {
                let below = match stage.base {
                    Base::Stage(below) => stages[below].clone(),
                    Base::Scratch | Base::Image(_) => Config::default(),
                };
                stages.push(Config { has_cmd: false, ..below });
            }
        };
        program.look(&mut |seen| {
            enter(&mut stages, seen.stage);
            stages[seen.stage].add(seen);
        });
        enter(&mut stages, program.stages.len() - 1);
        stages.pop().unwrap_or_default()
    }
}

impl Config {
    fn add(&mut self, seen: &Seen<'_>) {
        let span = seen.place(seen.instruction.span);
        let known = |word: &Word| Some(Located::new(seen.expand(&word.value)?, seen.place(word.span)));
        let one = |word: &Word| Some(Located::new(seen.expand(&word.value)?, span));
        match &seen.instruction.kind {
            Kind::Entrypoint(command) => {
                self.entrypoint = Some(Located::new(command.clone(), span));
                self.cmd = self.cmd.take().filter(|_| self.has_cmd);
            }
            Kind::Cmd(command) => {
                self.cmd = Some(Located::new(command.clone(), span));
                self.has_cmd = true;
            }
            Kind::Shell(words) => self.shell = Some(words.clone()),
            Kind::Env(pairs) => {
                for (name, value) in pairs {
                    if let (Some(name), Some(value)) = (seen.expand(&name.value), seen.expand(&value.value)) {
                        self.env.insert(name, Located::new(value, span));
                    }
                }
            }
            Kind::Expose(words) => {
                for word in words {
                    let texts = seen.words(&word.value).unwrap_or_default();
                    let ports = texts.iter().filter_map(|text| expanded_ports(text)).flatten();
                    self.ports.extend(ports.map(|port| Located::new(port, seen.place(word.span))));
                }
            }
            Kind::Volume(words) => {
                let volumes = words.iter().filter_map(known);
                self.volumes.extend(volumes.filter(|volume| volume.value.starts_with('/')));
            }
            Kind::User(word) => self.user = one(word),
            Kind::StopSignal(word) => self.stop_signal = one(word),
            Kind::Healthcheck(check) => self.healthcheck = Some(Located::new(check.clone(), span)),
            _ => {}
        }
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
        assert_eq!(config("FROM a\nEXPOSE x $OF_BASE\n").ports, []);
    }
}
