//! Feeds [`tidegate_laws::bundle`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::bundle(bytes));
