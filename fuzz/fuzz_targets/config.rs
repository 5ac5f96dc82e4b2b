//! See `balancer_userspace::fuzzing::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancer_userspace::fuzzing::config(data));
