#![no_main]
#![doc = "See `glancefs::glance::fuzzing::page`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::glance::fuzzing::page(bytes));
