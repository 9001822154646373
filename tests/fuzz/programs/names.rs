//! Lets a fuzzer find inputs of `names`. Must never do anything that the target does not.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gigastore_fuzz::run("names", data));
