#![no_main]

use keyward_fuzz::{Shared, requests};

static TARGET: Shared = Shared::new(requests::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
