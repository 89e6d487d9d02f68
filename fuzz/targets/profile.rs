#![no_main]
#![doc = "See `glancefs::read::fuzzing::profile`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::read::fuzzing::profile(bytes));
