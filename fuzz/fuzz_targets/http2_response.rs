//! Feeds [`tidegate_laws::http2_response`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::http2_response(bytes));
