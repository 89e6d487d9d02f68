#![no_main]
#![doc = "See `glancefs::catalog::fuzzing::names`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::catalog::fuzzing::names(bytes));
