//! Links the program statically where this machine has what that takes. To load and bind the C library
//! would be a fifth of a small run.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The libraries that the standard library asks for, and what takes their place. Each needs the others.
const LIBRARIES: [&str; 3] = ["libc.so", "libgcc_s.so", "libm.so"];
const ARCHIVES: [&str; 4] = ["libc.a", "libgcc_eh.a", "libgcc.a", "libm.a"];

/// What a program begins with that moves itself to where the kernel has put it.
const START: &str = "rcrt1.o";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(static_libc)");
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let is_here = variable("HOST") == variable("TARGET");
    let is_gnu = variable("CARGO_CFG_TARGET_ENV") == "gnu";
    let parts: Vec<_> = ARCHIVES
        .iter()
        .chain([&START])
        .map(|part| find(part))
        .collect();
    // So that a new C library becomes part of the next build.
    for part in parts.iter().flatten() {
        println!("cargo::rerun-if-changed={part}");
    }
    if !(is_here && is_gnu && knows_names() && parts.iter().all(Option::is_some)) {
        return;
    }
    let directory = variable("OUT_DIR");
    let script = ARCHIVES.map(|archive| format!("-l:{archive}")).join(" ");
    for library in LIBRARIES {
        // Found before the library of that name.
        let file = Path::new(&directory).join(library);
        fs::write(file, format!("GROUP({script})\n")).expect("cargo has made the directory");
    }
    println!("cargo::rustc-link-search=native={directory}");
    println!("cargo::rustc-link-arg=-static-pie");
    // What may be missing is then known to be.
    println!("cargo::rustc-link-arg=-Wl,-z,nodynamic-undefined-weak");
    println!("cargo::rustc-cfg=static_libc");
}

/// Whether looking up a name in files and by DNS is part of the C library, as it is since 2.34, and not
/// of libraries that it would have to load.
fn knows_names() -> bool {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let minor = version.ok().and_then(|version| {
        let minor = version.trim().strip_prefix("glibc 2.")?;
        minor.split('.').next()?.parse::<u32>().ok()
    });
    minor.is_some_and(|minor| minor >= 34)
}

/// Where the linker will find a part: of what it would not, the compiler repeats the name.
fn find(part: &str) -> Option<String> {
    let linker = env::var("RUSTC_LINKER").unwrap_or("cc".into());
    let output = Command::new(linker)
        .arg(format!("-print-file-name={part}"))
        .output();
    let path = String::from_utf8(output.ok()?.stdout).ok()?;
    Some(path.trim().to_owned()).filter(|path| path.starts_with('/'))
}
