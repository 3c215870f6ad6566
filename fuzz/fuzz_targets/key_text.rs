#![no_main]

use keyward_fuzz::{Shared, key_text};

static TARGET: Shared = Shared::new(key_text::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
