#!/bin/sh
# Builds the program for aarch64 as it is released, static, and puts it into the target directory. The
# toolchain is Debian 13's own, whose Rust is the oldest that Cargo.toml allows. It gets a tree in the target
# directory, and nothing is installed on this machine.
#
# The exit status is 77 if there is no such toolchain here. The log then says why.
set -eu
cd "$(dirname "$0")/.."
# shellcheck disable=SC2034 # install.sh reads it
only_verbs=yes
. ./install.sh

triple=aarch64-unknown-linux-gnu
suite=trixie
packages=cargo,rustc,gcc,libc6-dev,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross
# The C library comes from libc6-dev-arm64-cross. Only Rust's standard library is a package of arm64.
foreign_package=libstd-rust-dev:arm64

build() {
    [ "$(id -u)" = 0 ] || skip "it needs root"
    directory=${CARGO_TARGET_DIR:-target}/aarch64
    mkdir -p "$directory"
    directory=$(realpath "$directory") tree=$directory/tree
    has_tree || make_tree
    # The cargo in the tree has no network, and reads the crates from here.
    cargo vendor --quiet --locked --versioned-dirs "$directory/vendor" >/dev/null
    build_in_tree
    # The rename prevents a partial file under the final name. It also lets a running program be replaced.
    cp "$directory/$triple/release/pgw-forwarder" "$directory/new"
    mv "$directory/new" "$directory/pgw-forwarder"
}

has_tree() {
    grep -qsxF "$packages $foreign_package" "$tree/packages"
}

make_tree() {
    has debootstrap || skip "it needs debootstrap"
    say "make a tree of Debian $suite with its Rust in $tree"
    rm -rf "$tree" "$tree.new" "$directory/pgw-forwarder"
    install_toolchain "$tree.new" >"$directory/log" 2>&1 || {
        cat "$directory/log" >&2
        skip "the mirror lacks a package, see the log above"
    }
    mkdir -p "$tree.new/pgw-forwarder" "$tree.new/target" "$tree.new/root/.cargo"
    cat >"$tree.new/root/.cargo/config.toml" <<'CONFIG'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/target/vendor"
CONFIG
    echo "$packages $foreign_package" >"$tree.new/packages"
    mv "$tree.new" "$tree"
}

install_toolchain() {
    debootstrap --variant=minbase --include="$packages" "$suite" "$1" &&
        chroot "$1" dpkg --add-architecture arm64 &&
        chroot "$1" apt-get -q update &&
        chroot "$1" apt-get -qy install --no-install-recommends "$foreign_package" &&
        chroot "$1" apt-get -q clean
}

# The paths in the tree are the same on every machine, and so is the program.
build_in_tree() {
    # shellcheck disable=SC2016 # The inner shell expands them.
    unshare --mount --propagation private sh -euc '
        mount --bind "$PWD" "$1/pgw-forwarder"
        mount --bind "$2" "$1/target"
        mount -t proc proc "$1/proc"
        shift 2
        exec "$@"' sh "$tree" "$directory" \
        env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        chroot "$tree" sh -euc "cd /pgw-forwarder
            cargo rustc --quiet --release --locked --target $triple -- -C target-feature=+crt-static"
}

skip() {
    printf '%s: cannot build for aarch64: %s\n' "${0##*/}" "$*" >&2
    exit 77
}

build
