//! What is fresh, and has tags to be given all the same.

use std::collections::BTreeMap;

use imgforge_core::name::ImageName;
use imgforge_core::plan::{Action, Inventory, Plan, Target};
use imgforge_engine::Engine;
use imgforge_oci::Digest;

use crate::{Error, Session};

/// A target that is fresh and not tested, and release tags that point elsewhere: those of a change that was undone.
pub(super) struct FreshTarget {
    pub(super) name: ImageName,
    id: Digest,
    references: Vec<String>,
}

impl FreshTarget {
    pub(super) async fn move_tags(&self, engine: &dyn Engine) -> Result<(), Error> {
        for reference in &self.references {
            engine.tag(self.id.as_str(), reference).await?;
        }
        Ok(())
    }
}

/// All of a plan.
pub(super) fn fresh(targets: &[Target], plan: &Plan, inventory: &Inventory) -> Vec<FreshTarget> {
    let rows: BTreeMap<&str, &Digest> = plan
        .targets
        .iter()
        .filter(|row| row.action == Action::Fresh && row.tests == 0)
        .filter_map(|row| Some((row.name.as_str(), row.id.as_ref()?)))
        .collect();
    let of = |target: &Target| {
        let id = (*rows.get(target.name.as_str())?).clone();
        let held = inventory.holds(&target.name, target.fingerprint);
        let is_elsewhere =
            |reference: &&String| !held.is_some_and(|held| held.references.contains(*reference));
        let references: Vec<String> =
            target.release_references.iter().filter(is_elsewhere).cloned().collect();
        (!references.is_empty()).then(|| FreshTarget { name: target.name.clone(), id, references })
    };
    targets.iter().filter_map(of).collect()
}

impl Session {
    /// Gives what is held its content tag under the name that images have now: with another `registry` than at its
    /// build it lacks that, and children and containers ask for it.
    pub(super) async fn name_held(
        &self,
        targets: &[Target],
        inventory: &Inventory,
        engine: &dyn Engine,
    ) -> Result<(), Error> {
        for target in targets {
            let Some(held) = inventory.holds(&target.name, target.fingerprint) else { continue };
            let reference = self.content_reference(&target.name, target.fingerprint);
            if !held.references.contains(&reference) {
                engine.tag(held.id.as_str(), &reference).await?;
            }
        }
        Ok(())
    }
}
