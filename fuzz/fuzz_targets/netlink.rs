//! See `balancer_userspace::fuzzing::netlink`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancer_userspace::fuzzing::netlink(data));
