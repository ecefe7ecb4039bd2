//! Layers of anyone, unpacked: nothing outside the folder is touched, and nothing stays when it fails.

#![no_main]

use std::sync::LazyLock;

use imgforge_embedded::layer;
use imgforge_fuzz::{Place, tar_of};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::mount);
/// Of tar; a small blob may say that it is much larger.
const LIMIT: u64 = 1 << 22;

fuzz_target!(
    init: LazyLock::force(&PLACE),
    |input: &[u8]| {
        let (blob, folder) = (PLACE.path("blob"), PLACE.path("inside"));
        std::fs::write(&blob, tar_of(input)).expect("the blob is written");
        let unpacked = layer::unpack_within(&blob, &[], &folder, LIMIT);
        assert_eq!(folder.exists(), unpacked.is_ok());
        if let Ok(unpacked) = unpacked {
            assert_eq!(layer::measure(&blob).expect("it was read before"), (unpacked.diff_id, unpacked.size));
        }
        PLACE.clean();
    }
);
