#![no_main]

use keyward_fuzz::{Shared, page_token};

static TARGET: Shared = Shared::new(page_token::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
