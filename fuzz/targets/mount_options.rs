#![no_main]
#![doc = "See `glancefs::cli::fuzzing::mount_options`."]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| glancefs::cli::fuzzing::mount_options(bytes));
