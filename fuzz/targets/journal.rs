#![no_main]
#![doc = "See `glancefs::write::fuzzing::journal`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::write::fuzzing::journal(bytes));
