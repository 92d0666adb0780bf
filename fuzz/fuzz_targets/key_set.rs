//! Feeds [`tidegate_laws::key_set`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::key_set(bytes));
