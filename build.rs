//! Links the program statically where this machine has what that takes. To load and bind the C library
//! would be a fifth of a small run.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The libraries that the standard library asks for, and what takes their place. Each needs the others.
const LIBRARIES: [&str; 2] = ["libc.so", "libgcc_s.so"];
const ARCHIVES: [&str; 3] = ["libc.a", "libgcc_eh.a", "libgcc.a"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(static_libc)");
    let variable = |name| env::var(name).unwrap_or_default();
    let is_here = variable("HOST") == variable("TARGET");
    let is_gnu = variable("CARGO_CFG_TARGET_ENV") == "gnu";
    if !(is_here && is_gnu && knows_names() && ARCHIVES.iter().all(has)) {
        return;
    }
    let directory = variable("OUT_DIR");
    let script = ARCHIVES.map(|archive| format!("-l:{archive}")).join(" ");
    for library in LIBRARIES {
        // Found before the library of that name.
        fs::write(
            Path::new(&directory).join(library),
            format!("GROUP({script})\n"),
        )
        .expect("cargo has made the directory");
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

/// Whether the linker will find it: of what it would not, the compiler repeats the name.
fn has(archive: &&str) -> bool {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={archive}"))
        .output();
    output.is_ok_and(|output| output.stdout.starts_with(b"/"))
}
