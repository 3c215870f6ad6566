#![no_main]

use keyward_fuzz::{Shared, bot_updates};

static TARGET: Shared = Shared::new(bot_updates::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
