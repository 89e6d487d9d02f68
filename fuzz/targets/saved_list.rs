#![no_main]
#![doc = "See `glancefs::catalog::fuzzing::saved_list`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::catalog::fuzzing::saved_list(bytes));
