//! `RUN --mount`: its fields and what they mean.

use imgforge_syntax::{Located, Span, nearest};

use super::golang;
use super::instruction::{Missing, Word, problem};
use super::read::Flag;
use super::{From, Mount, MountKind, Sharing};
use crate::ParseProblem;

/// The fields as they are written: `key=value`, or `key`.
#[derive(Debug, Clone)]
pub(crate) struct RawMount {
    span: Span,
    fields: Vec<Field>,
}

/// `key=value`, or `key`.
#[derive(Debug, Clone)]
struct Field {
    key: String,
    value: Option<String>,
    /// Of the value.
    span: Span,
}

const KEYS: [&str; 19] = [
    "destination",
    "dst",
    "env",
    "from",
    "gid",
    "id",
    "mode",
    "readonly",
    "readwrite",
    "required",
    "ro",
    "rw",
    "sharing",
    "size",
    "source",
    "src",
    "target",
    "type",
    "uid",
];

impl RawMount {
    /// Reads the value of a flag `--mount=`. Fields that are not known go to `problems`: a newer frontend may know them.
    pub(crate) fn of(
        value: &str,
        flag: &Flag,
        problems: &mut Vec<ParseProblem>,
    ) -> Result<Self, ParseProblem> {
        let span = flag.span;
        let wrong = |message: String, help: Option<&str>| Err(problem(span, message, help));
        let Some(fields) = imgforge_syntax::csv::fields(value) else {
            return wrong("the quotes in --mount do not hold whole fields".into(), None);
        };
        let mut parsed = Vec::new();
        let mut at = flag.text().len() - value.len();
        for field in fields {
            // One with quotes of its own may not stand there as it is.
            let found = flag.text()[at..].find(&field).map(|from| at + from);
            let end = found.map(|from| from + field.len());
            at = end.unwrap_or(at);
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
                None => (field.to_lowercase(), None),
            };
            if !KEYS.contains(&key.as_str()) {
                let help = nearest(&key, KEYS).map(|near| format!("did you mean {near}?"));
                problems.push(problem(span, format!("--mount has no field {key}"), help.as_deref()));
                continue;
            }
            let may_be_bare = matches!(key.as_str(), "readonly" | "ro" | "readwrite" | "rw" | "required");
            if value.is_none() && !may_be_bare {
                return wrong(format!("the field {key} of --mount needs a value"), None);
            }
            if key == "from"
                && let Some(value) = &value
                && value.find('$').is_some_and(|at| at + 1 < value.len())
            {
                let help = Some("give the image a stage of its own: FROM $IMAGE AS name");
                return wrong("variables do not count in the from of a --mount".into(), help);
            }
            let len = value.as_ref().map_or(0, String::len);
            let span = end.map_or(flag.span, |end| flag.part(end - len, end));
            parsed.push(Field { key, value, span });
        }
        Ok(Self { span, fields: parsed })
    }

    /// The variable that a secret is given as.
    pub(crate) fn secret_variable(&self) -> Option<&str> {
        let value = |key: &str| self.last(&[key])?.value.as_deref();
        value("env").filter(|_| value("type").is_some_and(|kind| kind.eq_ignore_ascii_case("secret")))
    }

    /// `from` as it is written, when it is said and counts: BuildKit does not look at that of a tmpfs.
    pub(crate) fn from(&self) -> Option<Word> {
        let kind = self.last(&["type"]).and_then(|field| field.value.as_deref());
        if kind.is_some_and(|kind| kind.eq_ignore_ascii_case("tmpfs")) {
            return None;
        }
        let field = self.last(&["from"])?;
        let value = field.value.as_deref().filter(|value| !value.is_empty())?;
        Some(Located::new(value.to_owned(), field.span))
    }

    /// What it mounts of the context, with variables not expanded; the type too may hang on one.
    pub(crate) fn of_context(&self) -> Option<ContextMount<'_>> {
        if self.from().is_some() {
            return None;
        }
        let kind = self.last(&["type"]).map(|field| field.value.as_deref().unwrap_or_default());
        let source = self.last(&["source", "src"]);
        let value = source.map_or("", |field| field.value.as_deref().unwrap_or_default());
        let span = source.map_or(self.span, |field| field.span);
        Some(ContextMount { kind, source: value, span })
    }

    fn last(&self, keys: &[&str]) -> Option<&Field> {
        self.fields.iter().rev().find(|field| keys.contains(&field.key.as_str()))
    }
}

/// A mount that names no stage or image.
pub(crate) struct ContextMount<'a> {
    /// A bind mount when there is none.
    pub(crate) kind: Option<&'a str>,
    pub(crate) source: &'a str,
    pub(crate) span: Span,
}

/// What the fields say, with variables expanded.
struct Fields {
    kind: String,
    source: String,
    target: String,
    id: String,
    read_only: Option<bool>,
    sharing: Option<Sharing>,
    size: Option<u64>,
    required: bool,
    env: Option<String>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Fields {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = || format!("{value} is no value for {key}");
        match key {
            "type" => {
                let kinds = ["bind", "cache", "tmpfs", "secret", "ssh"];
                let kind = value.to_lowercase();
                if !kinds.contains(&kind.as_str()) {
                    return Err(format!("there is no mount type {value}: they are {}", kinds.join(", ")));
                }
                self.kind = kind;
            }
            "from" => {}
            "source" | "src" => value.clone_into(&mut self.source),
            "target" | "dst" | "destination" => value.clone_into(&mut self.target),
            "readonly" | "ro" => self.read_only = Some(boolean(value).ok_or_else(wrong)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(value).ok_or_else(wrong)?),
            "required" if matches!(self.kind.as_str(), "secret" | "ssh") => {
                self.required = boolean(value).ok_or_else(wrong)?;
            }
            "size" if self.kind == "tmpfs" => self.size = Some(golang::bytes(value).ok_or_else(wrong)?),
            "required" | "size" => return Err(format!("{key} is no field of a {} mount", self.kind)),
            "id" => value.clone_into(&mut self.id),
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(format!("there is no sharing {value}: shared, private or locked")),
                });
            }
            "mode" => self.mode = Some(u32::from_str_radix(value, 8).map_err(|_| wrong())?),
            "uid" => self.uid = Some(value.parse().map_err(|_| wrong())?),
            "gid" => self.gid = Some(value.parse().map_err(|_| wrong())?),
            _ => self.env = Some(value.to_owned()),
        }
        Ok(())
    }

    /// What fits together.
    fn check(&self, from: Option<&From>) -> Result<(), String> {
        let kind = self.kind.as_str();
        if !matches!(kind, "secret" | "ssh" | "cache") {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(format!("{key} is no field of a {kind} mount"));
                }
            }
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err(format!("sharing is no field of a {kind} mount"));
        }
        match kind {
            "secret" if from.is_some() => {
                Err("a secret comes from nowhere else: from is no field of it".into())
            }
            "secret" if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() => {
                Err("a secret needs an id or a target".into())
            }
            "secret" if !self.source.is_empty() && !self.id.is_empty() => {
                Err("source and id of a secret are the same: one of them is enough".into())
            }
            "ssh" if !self.source.is_empty() => Err("source is no field of an ssh mount".into()),
            "tmpfs" if self.read_only == Some(true) => {
                Err("a tmpfs that cannot be written to is of no use".into())
            }
            _ => Ok(()),
        }
    }
}

/// Where a mount stands.
pub(crate) struct Place<'a> {
    /// Absolute; `None` when it is not known yet.
    pub(crate) workdir: Option<&'a str>,
    /// What `from` says.
    pub(crate) from: Option<From>,
    /// How many ssh mounts come before.
    pub(crate) ssh: usize,
}

impl RawMount {
    /// The mount, when its variables are known. `expand` expands a value.
    pub(crate) fn evaluate(
        &self,
        place: Place<'_>,
        expand: &dyn Fn(&str, Span) -> Result<String, Missing>,
    ) -> Result<Mount, Missing> {
        let wrong = |message: String| problem(self.span, message, None);
        let mut fields = Fields {
            kind: "bind".into(),
            source: String::new(),
            target: String::new(),
            id: String::new(),
            read_only: None,
            sharing: None,
            size: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        for Field { key, value, .. } in &self.fields {
            let value = match value {
                Some(value) => expand(value, self.span)?,
                None => "true".to_owned(),
            };
            fields.set(key, &value).map_err(wrong)?;
        }
        fields.check(place.from.as_ref()).map_err(wrong)?;
        let is_empty = place.from == Some(From::Image("scratch".into()));
        if is_empty && fields.kind == "bind" {
            let help = Some("a mount of type=tmpfs is an empty folder");
            return Err(problem(self.span, "scratch is empty: there is nothing in it to mount", help).into());
        }
        let source = golang::join("/", &fields.source)[1..].to_owned();
        let absolute = |target: &str| match place.workdir {
            _ if target.starts_with('/') => Ok(golang::clean(target)),
            Some(workdir) => Ok(golang::join("/", &golang::join(workdir, target))),
            None => Err(Missing::unknown()),
        };
        let (uid, gid) = (fields.uid.unwrap_or(0), fields.gid.unwrap_or(0));
        let kind = match fields.kind.as_str() {
            "bind" => MountKind::Bind {
                from: place.from.unwrap_or(From::Context),
                source,
                writable: fields.read_only == Some(false),
            },
            "cache" => {
                let has_owner = fields.uid.is_some() || fields.gid.is_some() || fields.mode.is_some();
                MountKind::Cache {
                    id: if fields.id.is_empty() { golang::clean(&fields.target) } else { fields.id },
                    // A folder with an owner of its own is made, and not taken from elsewhere.
                    from: place.from.filter(|_| !is_empty && (!source.is_empty() || !has_owner)),
                    source,
                    sharing: fields.sharing.unwrap_or(Sharing::Shared),
                    mode: fields.mode.unwrap_or(0o755),
                    uid,
                    gid,
                    read_only: fields.read_only == Some(true),
                }
            }
            "tmpfs" => MountKind::Tmpfs { size: fields.size.filter(|size| *size > 0) },
            "secret" => {
                let id = [&fields.source, &fields.id].into_iter().find(|id| !id.is_empty());
                let id = id.map_or_else(|| golang::base(&fields.target).to_owned(), Clone::clone);
                let target = match (&fields.env, fields.target.as_str()) {
                    (Some(_), "") => String::new(),
                    (None, "") => format!("/run/secrets/{}", golang::base(&id)),
                    (_, target) => absolute(target)?,
                };
                let (required, mode) = (fields.required, fields.mode.unwrap_or(0o400));
                let kind = MountKind::Secret { id, env: fields.env, required, mode, uid, gid };
                return Ok(Mount { target, kind });
            }
            _ => {
                let target = match fields.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{}", place.ssh),
                    target => absolute(target)?,
                };
                let id = if fields.id.is_empty() { "default".into() } else { fields.id };
                let (required, mode) = (fields.required, fields.mode.unwrap_or(0o600));
                return Ok(Mount { target, kind: MountKind::Ssh { id, required, mode, uid, gid } });
            }
        };
        let target = absolute(&fields.target)?;
        if target == "/" {
            return Err(wrong("nothing can be mounted on /".into()).into());
        }
        Ok(Mount { target, kind })
    }
}

/// `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
