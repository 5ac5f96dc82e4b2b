//! The instructions of which the hand-made iterator programs consist.

use bytemuck::{Pod, Zeroable};

/// `BPF_FUNC_seq_write`; for programs under a GPL-compatible licence only.
pub const SEQ_WRITE: i32 = 127;

/// One instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source in the high one (little-endian machines).
    pub registers: u8,
    /// Offset of a memory access or a jump.
    pub offset: i16,
    /// Constant operand, or the number of a helper.
    pub immediate: i32,
}

/// Size bits of a load (`BPF_LDX | BPF_MEM`).
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Load {
    /// 32 bits.
    Width32 = 0x61,
    /// 8 bits.
    Width8 = 0x71,
    /// 64 bits.
    Width64 = 0x79,
}

/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub const EQUAL: u8 = 0x15;
/// `BPF_JMP | BPF_JNE | BPF_K`.
pub const NOT_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_EXIT`.
pub const EXIT: Instruction = Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 };

/// `to = *(width *)(from + offset)`.
pub const fn load(width: Load, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction { code: width as u8, registers: from << 4 | to, offset, immediate: 0 }
}

/// `*(u64 *)(to + offset) = from`.
pub const fn store(to: u8, offset: i16, from: u8) -> Instruction {
    Instruction { code: 0x7b, registers: from << 4 | to, offset, immediate: 0 }
}

/// Skips `offset` instructions if the register compares so with the number.
pub const fn jump(test: u8, register: u8, number: i32, offset: i16) -> Instruction {
    Instruction { code: test, registers: register, offset, immediate: number }
}

/// `to = from`.
pub const fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: 0xbf, registers: from << 4 | to, offset: 0, immediate: 0 }
}

/// `register = number`.
pub const fn set(register: u8, number: i32) -> Instruction {
    Instruction { code: 0xb7, registers: register, offset: 0, immediate: number }
}

/// `register += number`.
pub const fn add(register: u8, number: i32) -> Instruction {
    Instruction { code: 0x07, registers: register, offset: 0, immediate: number }
}

/// `r0 = helper(r1, …)`.
pub const fn call(helper: i32) -> Instruction {
    Instruction { code: 0x85, registers: 0, offset: 0, immediate: helper }
}
