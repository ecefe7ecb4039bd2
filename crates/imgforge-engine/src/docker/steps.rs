//! Which instruction of the Dockerfile a vertex of BuildKit's graph is.
//!
//! Vertexes whose name starts with a bracket that ends in `N/M` are steps (`[builder 2/7] RUN make`,
//! `[linux/amd64 2/3] …`); the others (`[internal] load metadata`) are BuildKit's own affairs. N counts as the
//! Dockerfile frontend does (BuildKit's `dockerfile2llb`, `prefixCommand`): FROM when it names an image that is no
//! stage, and RUN, COPY, ADD and WORKDIR but for `/`. What ONBUILD of the base has brought comes between FROM and the
//! file's own instructions, and the frontend of Docker 20.10 neither marks it nor counts it in M. So instructions are
//! found from the end of their stage: BuildKit tells all vertexes of a build before it begins with one.

use std::collections::BTreeMap;

use imgforge_dockerfile::{Dockerfile, EdgeKind, Instruction};

use crate::Place;

/// The instructions that are steps.
const COUNTED: [&str; 4] = ["RUN", "COPY", "ADD", "WORKDIR"];

/// A step as its vertex names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The last word before the number: its stage when the file has several, maybe a platform.
    stage: Option<String>,
    pub(super) number: usize,
    pub(super) total: usize,
    pub(super) text: String,
}

impl Named {
    /// Reads the name of a vertex; `None` when it is no step.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (bracket, text) = name.strip_prefix('[')?.split_once("] ")?;
        let mut words = bracket.rsplit(' ');
        let (number, total) = words.next()?.split_once('/')?;
        let (number, total) = (number.parse().ok()?, total.parse().ok()?);
        let stage = words.find(|word| !word.is_empty()).map(str::to_owned);
        Some(Self { stage, number, total, text: text.to_owned() })
    }

    pub(super) fn is_from(&self) -> bool {
        self.keyword() == "FROM"
    }

    fn keyword(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }
}

/// The steps of a Dockerfile.
#[derive(Debug, Default)]
pub(super) struct Steps {
    stages: Vec<Stage>,
    /// The images that it names and that are no stages, with ARGs expanded.
    pub(super) images: Vec<String>,
}

#[derive(Debug)]
struct Stage {
    /// As BuildKit calls it.
    name: String,
    /// Its FROM, when that is a step.
    from: Option<Place>,
    /// Its other steps in order, each with its keyword.
    counted: Vec<(Place, String)>,
}

impl Steps {
    /// Reads a Dockerfile. One that cannot be read has no steps; the daemon says what is wrong with it.
    pub(super) fn new(text: &str, args: &BTreeMap<String, String>) -> Self {
        let Ok(dockerfile) = Dockerfile::parse(text) else { return Self::default() };
        let references = dockerfile.references(args);
        let stands_on_image =
            |stage| references.iter().any(|used| used.kind == EdgeKind::From && used.stage == stage);
        let mut stages: Vec<Stage> = Vec::new();
        for (place, instruction) in Place::all(&dockerfile) {
            let keyword = instruction.keyword();
            if keyword == "FROM" {
                let name = name(instruction).unwrap_or_else(|| format!("stage-{}", place.stage));
                let from = stands_on_image(place.stage).then_some(place);
                stages.push(Stage { name, from, counted: Vec::new() });
            } else if let Some(stage) = stages.last_mut()
                && is_counted(instruction)
            {
                stage.counted.push((place, keyword.to_owned()));
            }
        }
        Self { stages, images: references.into_iter().map(|used| used.image).collect() }
    }

    /// Returns the place of a step, one of `all` of its build; `None` for what ONBUILD has brought, and for what cannot
    /// be told.
    pub(super) fn place<'a>(&self, step: &Named, all: impl Iterator<Item = &'a Named>) -> Option<Place> {
        let stage = match self.stages.as_slice() {
            [only] => only,
            stages => stages.iter().rfind(|stage| Some(&stage.name) == step.stage.as_ref())?,
        };
        if step.is_from() {
            return stage.from;
        }
        let numbers = all.filter(|other| other.stage == step.stage).map(|other| other.number);
        let after = numbers.max().unwrap_or_default().saturating_sub(step.number);
        let (place, keyword) = stage.counted.iter().rev().nth(after)?;
        (keyword == step.keyword()).then_some(*place)
    }
}

fn is_counted(instruction: &Instruction) -> bool {
    let keyword = instruction.keyword();
    COUNTED.contains(&keyword) && (keyword != "WORKDIR" || !instruction.text().ends_with(" /"))
}

/// The name that a FROM gives its stage.
fn name(from: &Instruction) -> Option<String> {
    let mut words = from.text().split_whitespace().rev();
    let name = words.next()?;
    words.next().filter(|word| word.eq_ignore_ascii_case("as")).map(|_| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_vertexes_are_steps() {
        let parse =
            |name: &str| Named::parse(name).map(|step| (step.stage, step.number, step.total, step.text));
        assert_eq!(parse("[4/7] RUN nginx -t"), Some((None, 4, 7, "RUN nginx -t".into())));
        assert_eq!(parse("[ 4/12] RUN nginx -t"), Some((None, 4, 12, "RUN nginx -t".into())));
        assert_eq!(parse("[builder 2/3] COPY a b"), Some((Some("builder".into()), 2, 3, "COPY a b".into())));
        let platform = "[linux/arm64 stage-1  1/12] FROM x";
        assert_eq!(parse(platform), Some((Some("stage-1".into()), 1, 12, "FROM x".into())));
        for other in
            ["[internal] load remote build context", "[auth] library/x", "copy /context /", "exporting"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    /// The instruction that each vertex of a build is, by the numbers of its stage and its own.
    fn found(text: &str, vertexes: &[&str]) -> Vec<Option<(usize, usize)>> {
        let steps = Steps::new(text, &BTreeMap::new());
        let all: Vec<Named> = vertexes.iter().filter_map(|name| Named::parse(name)).collect();
        let places = all.iter().map(|step| steps.place(step, all.iter()));
        places.map(|place| place.map(|place| (place.stage, place.instruction))).collect()
    }

    #[test]
    fn a_step_of_one_stage_is_found_by_its_number_whatever_its_text() {
        let text = "ARG A\nFROM base\nENV B=1\nRUN one\nWORKDIR /x\nWORKDIR /\nRUN one\n";
        let vertexes =
            ["[1/5] FROM docker.io/library/base", "[2/5] RUN one", "[3/5] WORKDIR /x", "[4/5] RUN one"];
        assert_eq!(found(text, &vertexes), [Some((0, 1)), Some((0, 3)), Some((0, 4)), Some((0, 6))]);
        assert_eq!(found(text, &["[linux/amd64 4/5] RUN one"]), [Some((0, 6))]);
        assert_eq!(found(text, &["[4/5] COPY one two"]), [None], "that is no COPY");
        assert_eq!(found("FROM scratch\nCOPY a b\n", &["[1/1] COPY a b"]), [Some((0, 1))]);
        assert_eq!(found("NONSENSE\n", &["[1/1] RUN x"]), [None]);
    }

    #[test]
    fn steps_of_several_stages_are_found_by_the_name_of_their_stage() {
        let text = "FROM base AS Build\nRUN x\nFROM build\nRUN x\nFROM scratch\nCOPY --from=build a b\n";
        let vertexes = [
            "[build 1/2] FROM base",
            "[build 2/2] RUN x",
            "[stage-1 1/1] RUN x",
            "[linux/amd64 stage-2 1/1] COPY --from=build a b",
            "[other 1/1] RUN x",
        ];
        let expected = [Some((0, 0)), Some((0, 1)), Some((1, 3)), Some((2, 5)), None];
        assert_eq!(found(text, &vertexes), expected);
    }

    #[test]
    fn what_onbuild_has_brought_is_no_instruction_of_the_file() {
        let text = "FROM base\nRUN true\nENV B=1\nRUN exit 4\n";
        // As Docker 20.10 has it, and as later ones do.
        let old =
            ["[1/3] FROM base", "[2/3] RUN echo", "[3/3] WORKDIR /x", "[4/3] RUN true", "[5/3] RUN exit 4"];
        let new = [
            "[1/5] FROM base",
            "[2/5] ONBUILD RUN echo",
            "[3/5] ONBUILD WORKDIR /x",
            "[4/5] RUN true",
            "[5/5] RUN exit 4",
        ];
        for vertexes in [old, new] {
            let expected = [Some((0, 0)), None, None, Some((0, 1)), Some((0, 3))];
            assert_eq!(found(text, &vertexes), expected);
        }
    }
}
