#![no_main]

use keyward_fuzz::{Shared, keyring};

static TARGET: Shared = Shared::new(keyring::target);

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
