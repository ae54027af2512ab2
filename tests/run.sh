#!/bin/sh
# Installs what the tests need, and runs all of them.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:${HOME-}/.cargo/bin

if command -v apt-get >/dev/null; then
    ./install.sh --packages apache2-utils busybox curl debootstrap iproute2 nginx-light openssl prometheus \
        prometheus-alertmanager prometheus-node-exporter prometheus-pushgateway shellcheck \
        systemd-container tinyproxy-bin
    # Where it cannot be had, its tests say so, and are skipped, but not in CI.
    tests/newer-programs.sh || [ "${CI-}" != true ]
fi
shellcheck --external-sources install.sh deploy/*.sh tests/*.sh tests/bench/*.sh .ci/run
cargo fmt --check
cargo clippy --locked --all-targets -- --deny warnings
# The demo's, built here so that its test does not wait for it.
cargo build --locked --release
cargo test --locked
