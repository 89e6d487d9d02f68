#![no_main]
#![doc = "See `glancefs::glance::fuzzing::record`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::glance::fuzzing::record(bytes));
