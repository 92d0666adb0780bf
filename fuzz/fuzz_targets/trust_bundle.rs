//! Feeds [`tidegate_laws::trust_bundle`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::trust_bundle(bytes));
