//! See `balancer_userspace::fuzzing::annotations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancer_userspace::fuzzing::annotations(data));
