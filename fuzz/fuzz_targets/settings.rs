#![no_main]

use keyward_fuzz::{Shared, settings};

static TARGET: Shared = Shared::new(settings::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
