#![no_main]

use keyward_fuzz::{Shared, cache_entry};

static TARGET: Shared = Shared::new(cache_entry::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
