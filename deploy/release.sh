#!/bin/sh
# Makes the files of a release in dist. See usage.
set -eu
cd "$(dirname "$0")/.."
# shellcheck disable=SC2034 # With it, install.sh only defines its functions.
only_verbs=yes
. ./install.sh

usage() {
    cat <<'USAGE'
Usage: deploy/release.sh [TARGET [PROGRAM]]
       deploy/release.sh --sums

Makes a bundle, a .deb and a .rpm with a static pgw-forwarder in dist, and then SHA256SUMS and install.sh, as
with --sums. The same commit and toolchain make the same bytes.

TARGET is a target of Rust, by default that of this machine. For another one, set the variable of its linker,
as CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER. Tested: x86_64-unknown-linux-gnu, and, with the program that
tests/cross-build.sh builds, aarch64-unknown-linux-gnu.

  PROGRAM          package this static program instead of building one
  --sums           only make SHA256SUMS, and the install.sh that has the sums of all bundles in dist. It
                   downloads them from the URL in the variable RELEASE_URL, which ends with /vVERSION
USAGE
}

main() {
    case ${1-} in
        -h | --help) usage && exit ;;
    esac
    PATH=$PATH:${HOME-}/.cargo/bin
    case ${RELEASE_URL-} in
        '') ;;
        *[!A-Za-z0-9:/._~-]*) err "RELEASE_URL: use letters, digits and :/._~- only" ;;
        https://*"/v$version") ;;
        *) err "RELEASE_URL: give an https:// URL that ends with /v$version, the version of this commit" ;;
    esac
    case ${1-} in
        --sums) make_sums; exit ;;
    esac
    for tool in cargo gcc git jq; do
        has "$tool" || err "$tool is missing"
    done
    [ $# -gt 0 ] || set -- "$(rustc -vV | sed -n 's/^host: //p')"
    release "$@"
}

target_directory=${CARGO_TARGET_DIR:-$PWD/target}
# The packages take their files from here, see Cargo.toml.
staging=dist/staging

release() {
    target=$1
    program=${2:-$target_directory/$target/release/pgw-forwarder}
    [ $# = 2 ] || build
    bundle=pgw-forwarder-$version-$target
    # All files have the time of the commit. The tools read this variable, too.
    export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
    rm -rf "$staging"
    mkdir -p "$staging/$bundle/deploy/node" "$staging/$bundle/completions"
    ln -s "$bundle" "$staging/bundle"
    install -m 755 "$program" install.sh "$staging/bundle"
    install -m 644 crontab.example README.md LICENSE-* docs/pgw-forwarder.1 "$staging/bundle"
    install -m 644 deploy/node/* "$staging/bundle/deploy/node"
    install -m 644 docs/completions/* "$staging/bundle/completions"
    write_third_party_licences >"$staging/bundle/THIRD-PARTY"
    write_changelog >"$staging/changelog"

    tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        --directory="$staging" "$bundle" | gzip -9n >"dist/$bundle.tar.gz"
    run_tool cargo-deb 3.8.0 --quiet --no-build --no-strip --target "$target" --output dist
    run_tool cargo-generate-rpm 0.21.1 --arch "$(rpm_architecture "$target")" --auto-req disabled --output dist
    rm -r "$staging"
    make_sums
}

# The program is static, so that it runs on every distribution. Its messages about bugs have paths of crates, which
# must not be those of this machine.
build() {
    say "build pgw-forwarder for $target, which takes a minute or more"
    CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
        cargo rustc --quiet --release --locked --target "$target" -- -C target-feature=+crt-static
}

# The static program contains other people's work. Where a licence may be chosen, MIT is.
write_third_party_licences() {
    echo "The static pgw-forwarder contains the GNU C library, LGPL 2.1 or later, of the system that built it, Rust's
standard library, MIT or Apache-2.0, and the packages below from crates.io. With its source, it can be linked to
another C library: deploy/release.sh."
    cargo tree --locked --target "$target" --edges normal,no-proc-macro --prefix none --format '{p}' |
        cut -d ' ' -f 1,2 | sort -u >"$staging/linked"
    cargo metadata --locked --format-version 1 --filter-platform "$target" | jq -r '.packages[] | select(.source) |
        [.name + " v" + .version, .license, (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv' |
        sort | while IFS='	' read -r package licence directory; do
        grep -qxF "$package" "$staging/linked" || continue
        printf '\n%s, %s\n\n' "$package" "$licence"
        cat "$directory"/LICENSE-MIT* 2>/dev/null || cat "$directory"/LICEN[SC]E*
    done
}

# In the format of Debian's changelogs.
write_changelog() {
    cat <<CHANGELOG
pgw-forwarder ($version-1) unstable; urgency=medium

  * See CHANGELOG.md of the source.

 -- $(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)  $(LC_ALL=C date -uRd "@$SOURCE_DATE_EPOCH")
CHANGELOG
}

# run_tool NAME VERSION ARG...: builds the tool if it is missing. It runs for seconds, so it is optimized little.
run_tool() {
    name=$1 crate=$1@$2 root=$target_directory/tools/$1-$2
    shift 2
    if [ ! -x "$root/bin/$name" ]; then
        say "build $crate, which takes a minute or more"
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
            cargo install --quiet --locked --root "$root" "$crate"
    fi
    "$root/bin/$name" "$@"
}

rpm_architecture() {
    case $1 in
        armv7-*) echo armv7hl ;;
        riscv64gc-*) echo riscv64 ;;
        *) echo "${1%%-*}" ;;
    esac
}

# A bundle cannot contain its own sum, so only the install.sh beside it has that.
make_sums() {
    cd dist
    ls "pgw-forwarder-$version"-*.tar.gz >/dev/null || err "dist has no bundle of version $version"
    sums=$(for file in "pgw-forwarder-$version"-*.tar.gz; do
        target=${file#"pgw-forwarder-$version-"}
        echo "${target%.tar.gz} $(sha256sum <"$file" | cut -d ' ' -f 1)"
    done)
    URL=${RELEASE_URL-} SUMS=$sums awk '
        /^release_url=/ { $0 = "release_url='\''" ENVIRON["URL"] "'\''" }
        /^sums=/ { $0 = "sums='\''\n" ENVIRON["SUMS"] "\n'\''" }
        { print }' ../install.sh >install.sh
    chmod 755 install.sh
    sha256sum install.sh pgw-forwarder[-_]"$version"-* >SHA256SUMS
    say "publish the files in dist${RELEASE_URL:+ at $RELEASE_URL}"
    ls -l
}

main "$@"
