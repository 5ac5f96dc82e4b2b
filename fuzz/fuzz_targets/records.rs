//! See `balancer_userspace::fuzzing::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancer_userspace::fuzzing::records(data));
