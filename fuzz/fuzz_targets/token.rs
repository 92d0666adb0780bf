//! Feeds [`tidegate_laws::token`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::token(bytes));
