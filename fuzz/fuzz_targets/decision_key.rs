//! Feeds [`tidegate_laws::decision_key`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::decision_key(bytes));
