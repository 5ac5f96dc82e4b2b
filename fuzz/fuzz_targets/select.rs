//! See `balancer_userspace::fuzzing::select`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancer_userspace::fuzzing::select(data));
