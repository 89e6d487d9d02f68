#![no_main]
#![doc = "See `glancefs::glance::fuzzing::v1_headers`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::glance::fuzzing::v1_headers(bytes));
