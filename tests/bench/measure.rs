//! measure RUNS STATUS PROGRAM [ARGUMENT]...: runs the program, and prints a line for each run: the
//! CPU time and the wall time in milliseconds, and the peak memory in KiB. CPU time covers the
//! processes that the program waited for; peak memory is that of the largest of them. Fails if a
//! run ends with another exit status than STATUS.

use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, process};

/// `struct rusage` of 64-bit Linux.
#[repr(C)]
#[derive(Default)]
struct Usage {
    user: [i64; 2],
    system: [i64; 2],
    peak: i64,
    others: [i64; 13],
}

unsafe extern "C" {
    fn wait4(pid: i32, status: &mut i32, options: i32, usage: &mut Usage) -> i32;
}

fn main() {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().expect("RUNS STATUS PROGRAM");
    let runs: u32 = next().parse().expect("RUNS");
    let expected: i32 = next().parse().expect("STATUS");
    let mut command = Command::new(next());
    command.args(arguments).stdout(Stdio::null());
    for _ in 0..runs {
        let (mut status, mut usage) = (0, Usage::default());
        let started = Instant::now();
        let pid = command.spawn().expect("PROGRAM").id() as i32;
        // SAFETY: the kernel writes to these two references only, and std does not wait for this child.
        assert_eq!(pid, unsafe { wait4(pid, &mut status, 0, &mut usage) });
        let wall = started.elapsed().as_secs_f64() * 1e3;
        if status != expected << 8 {
            eprintln!("{command:?} ended with wait status {status:#x}");
            process::exit(1);
        }
        let ms = |time: [i64; 2]| time[0] as f64 * 1e3 + time[1] as f64 / 1e3;
        let cpu = ms(usage.user) + ms(usage.system);
        println!("{cpu:.3} {wall:.3} {}", usage.peak);
    }
}
