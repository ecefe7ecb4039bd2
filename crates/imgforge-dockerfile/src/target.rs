//! A Dockerfile reduced to what one of its stages needs, as `docker build --target` takes it.
//!
//! Several images may be built from one file. What only another of them reaches is no input of an image, so what is
//! hashed is not the file but a smaller one that means the same: the stages that are needed, and of the ARGs before
//! the first FROM those that may count in them. An engine gets the same with white space where the rest was, so that
//! the lines that it names are those of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::program::read::directives_end;
use crate::queries::{Use, uses};
use crate::{Dockerfile, Instruction};

/// A Dockerfile without what a stage does not need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reduced {
    /// With white space for what is left out: every byte that is left stands where it stands in the file.
    pub text: String,
    /// Without it, stages counted anew: the same whatever else the file holds.
    pub canonical: String,
}

impl Dockerfile {
    /// The names of the stages, in order; `None` for one that has only its number.
    pub fn stage_names(&self) -> Vec<Option<&str>> {
        let froms = self.instructions().iter().filter(|instruction| instruction.keyword() == "FROM");
        froms.map(Instruction::stage_name).collect()
    }

    /// Reduces the file, whose text this is, to what a stage needs: one by its name, the last of that name, or else
    /// by its number from 0. `None` when there is no such stage.
    pub fn reduced(&self, text: &str, target: &str, args: &BTreeMap<String, String>) -> Option<Reduced> {
        let names = self.stage_names();
        let named = names.iter().rposition(|name| name.is_some_and(|name| name.eq_ignore_ascii_case(target)));
        let number = || target.parse().ok().filter(|number| *number < names.len());
        let target: usize = named.or_else(number)?;
        let uses = uses(&self.program(args));
        let mut stages = self.needed(target, &uses);
        let edits = if let Some(edits) = self.renumbered(text, &stages, &uses) {
            edits
        } else {
            // A number that cannot be written anew in its place holds when no stage before it is left out.
            stages = (0..=target).collect();
            Vec::new()
        };
        let mut kept: Vec<Range<usize>> = self.global_args(&stages).map(range).collect();
        kept.extend(
            self.stages().enumerate().filter(|(n, _)| stages.contains(n)).map(|(_, stage)| whole(stage)),
        );
        Some(Reduced {
            text: padded(text, directives_end(text), &kept, &edits),
            canonical: canonical(text, directives_end(text), &kept, &edits),
        })
    }

    /// The instructions of each stage.
    fn stages(&self) -> impl Iterator<Item = &[Instruction]> {
        let is_from = |instruction: &Instruction| instruction.keyword() == "FROM";
        let all = self.instructions();
        let first = all.iter().position(is_from).unwrap_or(all.len());
        all[first..].chunk_by(move |_, next| !is_from(next))
    }

    /// The stages that one needs, itself included.
    fn needed(&self, target: usize, uses: &[Use]) -> BTreeSet<usize> {
        let names = self.stage_names();
        let mut needed = BTreeSet::new();
        let mut next = vec![target];
        while let Some(stage) = next.pop() {
            if !needed.insert(stage) {
                continue;
            }
            for used in uses.iter().filter(|used| used.reference.stage == stage) {
                next.extend(used.of);
                if used.is_deferred {
                    // What a child of the stage takes from: any stage that is called so. None below the target is
                    // one, and the target has to stay the last.
                    let is_meant = |n: usize| {
                        names[n].is_some_and(|name| name.eq_ignore_ascii_case(&used.reference.image))
                            || used.reference.image.parse() == Ok(n)
                    };
                    next.extend((0..target).filter(|n| is_meant(*n)));
                }
            }
        }
        needed
    }

    /// Where needed stages name a stage by its number, and its number among those that are needed. `None` when one
    /// stands in the file in another way than as digits.
    fn renumbered(
        &self,
        text: &str,
        stages: &BTreeSet<usize>,
        uses: &[Use],
    ) -> Option<Vec<(Range<usize>, String)>> {
        let count = self.stage_names().len();
        let mut edits = Vec::new();
        for used in uses.iter().filter(|used| stages.contains(&used.reference.stage) && used.is_number) {
            let Some(number) = used.reference.image.parse::<usize>().ok().filter(|number| *number < count)
            else {
                continue;
            };
            let place = used.reference.span.offset as usize
                ..(used.reference.span.offset + used.reference.span.len) as usize;
            if text.get(place.clone()) != Some(used.reference.image.as_str()) {
                return None;
            }
            edits.push((place, stages.range(..number).count().to_string()));
        }
        edits.sort_by_key(|(place, _)| place.start);
        Some(edits)
    }

    /// The ARGs before the first FROM that may count in these stages: those that one of them or a later ARG of these
    /// names, and those that no stage names at all, since ONBUILD of an image from outside may.
    fn global_args(&self, stages: &BTreeSet<usize>) -> impl Iterator<Item = &Instruction> {
        let of = |wanted: bool| {
            let stages = self.stages().enumerate().filter(move |(n, _)| stages.contains(n) == wanted);
            let texts: Vec<&str> = stages.flat_map(|(_, stage)| stage).map(Instruction::text).collect();
            texts.join("\n")
        };
        let (mut inside, outside) = (of(true), of(false));
        let args = self.instructions().iter().take_while(|instruction| instruction.keyword() != "FROM");
        let mut kept = Vec::new();
        for arg in args.collect::<Vec<_>>().into_iter().rev() {
            let names = arg.quoted_words(self.read.escape).into_iter().map(|word| {
                let name = word.value.split('=').next().unwrap_or_default();
                name.trim_matches(['"', '\'']).to_owned()
            });
            let may_count = |name: String| mentions(&inside, &name) || !mentions(&outside, &name);
            if names.into_iter().any(may_count) {
                inside.push('\n');
                inside.push_str(arg.text());
                kept.push(arg);
            }
        }
        kept.into_iter().rev()
    }
}

/// Whether a text holds a word, no part of a longer one.
fn mentions(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut hits = text.match_indices(word);
    !word.is_empty()
        && hits.any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

fn range(instruction: &Instruction) -> Range<usize> {
    let span = instruction.span();
    span.offset as usize..(span.offset + span.len) as usize
}

/// From a stage's FROM to the end of its last instruction.
fn whole(stage: &[Instruction]) -> Range<usize> {
    let (first, last) = (range(&stage[0]), range(&stage[stage.len() - 1]));
    first.start..last.end
}

fn padded(text: &str, top: usize, kept: &[Range<usize>], edits: &[(Range<usize>, String)]) -> String {
    let mut out = text[..top].to_owned();
    let blank = |out: &mut String, range: Range<usize>| {
        out.extend(text.as_bytes()[range].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
    };
    for piece in kept {
        let from = out.len();
        blank(&mut out, from..piece.start);
        out.push_str(&edited(text, piece, edits, |number, place| {
            format!("{number:0>width$}", width = place.len())
        }));
    }
    let from = out.len();
    blank(&mut out, from..text.len());
    out
}

fn canonical(text: &str, top: usize, kept: &[Range<usize>], edits: &[(Range<usize>, String)]) -> String {
    let mut out = text[..top].trim_start_matches('\u{feff}').to_owned();
    for piece in kept {
        out.push_str(&edited(text, piece, edits, |number, _| number.to_owned()));
        out.push('\n');
    }
    out
}

/// A piece of the text with other numbers in it.
fn edited(
    text: &str,
    piece: &Range<usize>,
    edits: &[(Range<usize>, String)],
    write: impl Fn(&str, &Range<usize>) -> String,
) -> String {
    let (mut out, mut at) = (String::new(), piece.start);
    for (place, number) in edits.iter().filter(|(place, _)| piece.contains(&place.start)) {
        out.push_str(&text[at..place.start]);
        out.push_str(&write(number, place));
        at = place.end;
    }
    out.push_str(&text[at..piece.end]);
    out
}
