//! The kernel programs of the Understudy agent: they count, time and report, and decide nothing.
//!
//! Owns: raw tracepoints on system calls, scheduler, block devices, exits, signals and memory kills, filtered in
//! the kernel to the store's process tree. What can hurt: the verifier (no loops, every index bounded) and load
//! on every process of the machine (an untracked one costs one lookup). Refuses: policy and thresholds.
#![no_std]
#![no_main]

mod block;
mod fatal;
mod maps;
mod sched;
mod syscalls;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel gives some helpers only to programs under a licence of its list. Of the two licences of this crate
/// the one it knows is named; the wording is one that the kernel accepts.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 7] = *b"GPL v2\0";
