#!/bin/sh
# Installs what the tests need, and runs all of them.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:${HOME-}/.cargo/bin
target=${CARGO_TARGET_DIR:-target}

if command -v apt-get >/dev/null; then
    # shellcheck disable=SC2034 # install.sh reads it
    only_verbs=yes
    . ./install.sh
    . deploy/demo.sh
    packages_without_services apache2-utils busybox curl debian-archive-keyring debootstrap fish haproxy iproute2 jq \
        lintian man-db mandoc netcat-openbsd nginx-light openssh-client openssl prometheus prometheus-alertmanager \
        prometheus-nginx-exporter prometheus-node-exporter prometheus-pushgateway python3-prometheus-client \
        python3-venv qemu-user-static rpm shellcheck socat systemd-container tinyproxy-bin wget zsh
    # The tests that need them are skipped without them, but not in CI.
    tests/newer-programs.sh || [ "${CI-}" != true ]
    [ -x "$target/ansible/bin/ansible-playbook" ] || {
        python3 -m venv "$target/ansible" && "$target/ansible/bin/pip" --quiet install 'ansible-core~=2.19.0'
    } || [ "${CI-}" != true ]
    # Not even CI can demand a toolchain that the mirror may lack.
    tests/cross-build.sh || [ $? = 77 ]
fi
shellcheck --external-sources install.sh deploy/*.sh deploy/package/prerm tests/*.sh tests/bench/*.sh .ci/run
cargo fmt --check
cargo clippy --locked --all-targets -- --deny warnings
# The demo's, built here so that its test does not wait for it.
cargo build --locked --release
deploy/release.sh
foreign=$target/aarch64/pgw-forwarder
[ ! -x "$foreign" ] || deploy/release.sh aarch64-unknown-linux-gnu "$foreign"
# As crates.io would get it.
cargo package --locked --allow-dirty
# Most tests wait for servers, and the booted machines for cron. So more of them run at a time than cores.
cargo test --locked -- --test-threads=6 --skip bookworm:: --skip trixie::
cargo test --locked --test forwarder -- --test-threads=12 bookworm:: trixie::
