#![no_main]
#![doc = "See `glancefs::cache::fuzzing::index`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::cache::fuzzing::index(bytes));
