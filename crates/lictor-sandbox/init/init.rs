//! The first process of a container: waits until the agent lets go of the other end of its standard input.
//!
//! Compiled by `build.rs` into a static program. It ignores the end of its children, so that orphans of the job leave
//! no zombies; tells that it runs by closing its output; and ends when nobody holds its input any more, and with it
//! everybody in its pid namespace: a container goes when its agent does, also by SIGKILL.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod call {
    pub const READ: usize = 0;
    pub const CLOSE: usize = 3;
    pub const RT_SIGACTION: usize = 13;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod call {
    pub const READ: usize = 63;
    pub const CLOSE: usize = 57;
    pub const RT_SIGACTION: usize = 134;
    pub const EXIT_GROUP: usize = 94;
}

const SIGCHLD: usize = 17;
const SIG_IGN: usize = 1;
const EINTR: isize = -4;

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {}", "ud2", sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "bl {}", "brk 1", sym main);

extern "C" fn main() -> ! {
    // Handler, flags, restorer, mask.
    let ignore = [SIG_IGN, 0, 0, 0];
    let mut byte = 0_u8;
    // SAFETY: system calls on this process alone; both pointers are live.
    unsafe {
        system(call::RT_SIGACTION, [SIGCHLD, (&raw const ignore) as usize, 0, 8]);
        system(call::CLOSE, [1, 0, 0, 0]);
        system(call::CLOSE, [2, 0, 0, 0]);
        while matches!(system(call::READ, [0, (&raw mut byte) as usize, 1, 0]), EINTR | 1) {}
    }
    exit()
}

fn exit() -> ! {
    loop {
        // SAFETY: ends this process.
        unsafe { system(call::EXIT_GROUP, [0; 4]) };
    }
}

/// # Safety
/// As of the call.
#[cfg(target_arch = "x86_64")]
unsafe fn system(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result: isize;
    // SAFETY: the kernel changes rax, rcx and r11, and what the arguments say.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r10") d, out("rcx") _, out("r11") _);
    }
    result
}

/// # Safety
/// As of the call.
#[cfg(target_arch = "aarch64")]
unsafe fn system(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result: isize;
    // SAFETY: the kernel changes x0, and what the arguments say.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d);
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}
