//! Feeds [`tidegate_laws::ext_authz`].

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate_laws::ext_authz(bytes));
