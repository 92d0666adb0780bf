//! Feeds [`tidegate_laws::http2_head`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::http2_head(bytes));
