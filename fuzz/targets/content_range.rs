#![no_main]
#![doc = "See `glancefs::glance::fuzzing::ranges`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::glance::fuzzing::ranges(bytes));
