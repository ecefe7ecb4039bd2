//! `layers "one"`: all that an image adds to the one that it stands on becomes one layer.

use imgforge_engine::BuildError;
use imgforge_oci::{Digest, History};

use super::{Builder, Known, State, engine_error, store_error};
use crate::engine::{silent, words};
use crate::key::merge_key;
use crate::worker::message::{self, Layer, Reply, Request};

impl Builder<'_> {
    /// Makes one layer of all that the image adds to the one that it stands on.
    pub(super) async fn in_one_layer(&self, mut state: State) -> Result<State, BuildError> {
        let (below, told) = state.below;
        if state.layers.len() < below + 2 {
            return Ok(state);
        }
        let under = below.checked_sub(1).map(|last| state.chain[last].clone());
        let key = merge_key(under.as_ref().map_or("", Digest::as_str), state.top(), self.packing());
        let _turn = self.engine.turn(&key).await;
        let layer = match self.known(&key)? {
            Some(Known(layer)) => layer,
            None => {
                let layer = self.merged(&state, below).await?;
                self.remember(&key, under.as_ref(), layer.as_ref())?;
                layer
            }
        };
        state.layers.truncate(below);
        state.chain.truncate(below);
        state.config.history.iter_mut().skip(told).for_each(|entry| entry.empty_layer = true);
        if let Some(layer) = layer {
            state.push(layer);
            state.config.history.push(History {
                created: Some(self.created()),
                created_by: Some("all of the above in one layer".into()),
                comment: Some("imgforge".into()),
                ..History::default()
            });
        }
        Ok(state)
    }

    /// The layers of an image above the lowest `below` as one.
    async fn merged(&self, state: &State, below: usize) -> Result<Option<Layer>, BuildError> {
        let stack = self.engine.unpacked(&state.layers, &state.chain, &self.cancel).await?;
        let (stack, layers) = stack.split_at(below);
        let scratch = self.engine.store.scratch().map_err(store_error)?;
        let blob = scratch.path().join("blob");
        let request = Request::Step(message::Step {
            stack: stack.to_vec(),
            action: message::Action::Merge { layers: layers.to_vec() },
            blob: blob.clone(),
            folder: scratch.path().join("layer"),
            epoch: self.epoch,
            compression: self.request.compression,
        });
        let layer = match self.engine.work(scratch.path(), &request, silent(), &self.cancel).await? {
            Reply::Step(layer) => layer,
            other => return Err(engine_error(format!("no one layer: {}", words(&other)))),
        };
        if let Some(layer) = &layer {
            self.engine.store.adopt_blob(&blob, &layer.digest).map_err(store_error)?;
        }
        Ok(layer)
    }
}
