#![no_main]

use keyward_fuzz::{Shared, near_polls};

static TARGET: Shared = Shared::new(near_polls::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
