#![no_main]

use keyward_fuzz::{Shared, http};

static TARGET: Shared = Shared::new(http::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
