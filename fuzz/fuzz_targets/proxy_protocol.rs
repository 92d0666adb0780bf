//! Feeds [`tidegate_laws::proxy_protocol`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::proxy_protocol(bytes));
