//! The first process of a container. Compiled by `build.rs` into a static program that needs nothing of the root file
//! system that it runs in.
//!
//! ```text
//!   lictor-init           holds the container: see `hold`
//!   lictor-init hold A B  the same, where its maker needs standard input and output itself
//!   lictor-init run ...   starts a program in it and tells how it ended: see `run`
//! ```
#![no_std]
#![no_main]

mod call;
mod hold;
mod processes;
mod relay;
mod run;
mod socket;

use core::arch::global_asm;

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym main);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x0, sp", "bl {}", "brk 1", sym main);

/// # Safety
/// `stack` is what the kernel starts a program with: the number of arguments, and pointers to them.
unsafe extern "C" fn main(stack: *mut usize) -> ! {
    // SAFETY: as the caller vouches.
    let (count, arguments) = unsafe { (*stack, stack.add(1).cast::<*const u8>()) };
    if count < 2 {
        hold::hold();
    }
    // SAFETY: that many strings are there.
    unsafe {
        if count == 4 && **arguments.add(1) == b'h' {
            hold::hold_at(*arguments.add(2), *arguments.add(3));
        }
    }
    // SAFETY: the kernel has put that many strings there, and a null pointer behind them, and the environment behind
    // that; nobody else uses them.
    unsafe {
        run::forget_environment(arguments.add(count + 1));
        run::run(core::slice::from_raw_parts_mut(arguments, count + 1))
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    call::exit(125)
}
