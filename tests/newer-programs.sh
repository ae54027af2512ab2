#!/bin/sh
# Provides programs that the tests need in newer versions than the installed suite may have. They go
# into the target directory. Each comes from the first suite of this distribution, the installed one
# included, whose package is new enough. apt fetches and verifies them as it does any package, but with
# temporary lists and a temporary cache. Nothing is installed.
#
# Usage: tests/newer-programs.sh [PACKAGE...]    (without arguments: all packages)
set -eu
cd "$(dirname "$0")/.."
only_verbs=yes
. ./install.sh

# Sets the oldest usable version of a package, and its programs. PROGRAM=FILE stores a program under
# another name, so that the name shows which of two versions a test runs.
describe() {
    case $1 in
        # 1.84 is the first to accept a Pushgateway's URLs. vmagent also accepts the cluster's.
        victoria-metrics) oldest=1.84 programs="victoria-metrics vmagent vmalert" ;;
        # 1.11.0 crashes when it refuses a push.
        prometheus-pushgateway) oldest=1.11.1 programs=prometheus-pushgateway=pushgateway-newer ;;
        # 3 refuses other responses of a gateway than 2 does, and crashes at some.
        prometheus) oldest=3.0 programs=prometheus=prometheus-newer ;;
        # Suites with Prometheus 3 package it separately.
        promtool) oldest=3.0 programs=promtool=promtool-newer ;;
        *) err "unknown package $1" ;;
    esac
}

provide_programs() {
    [ $# -gt 0 ] || set -- victoria-metrics prometheus-pushgateway prometheus promtool
    target=${CARGO_TARGET_DIR:-target}
    missing=
    for package in "$@"; do
        is_provided "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    has apt-get || err "apt-get is missing. Cannot get newer packages:$missing"
    configure_apt

    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for suite in "$codename" stable testing unstable devel; do
        fetch_lists "$suite" >>"$directory/log" 2>&1
        left=
        for package in $missing; do
            if provide "$package" >>"$directory/log" 2>&1; then
                say "$package $version from $suite is in $target"
            else
                left="$left $package"
            fi
        done
        missing=$left
        [ -n "$missing" ] || return 0
    done
    cat "$directory/log" >&2
    err "no suite of this distribution has a usable package of:$missing. The log is above."
}

# Only this script writes these files, so their versions need no check.
is_provided() {
    describe "$1"
    for program in $programs; do
        [ -x "$target/${program#*=}" ] || return 1
    done
}

configure_apt() {
    trap 'rm -rf "$directory"' EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    # apt fetches as the user _apt.
    chmod 755 "$directory"
    mkdir -p "$directory/sources" "$directory/state/lists/partial" "$directory/cache/archives/partial"
    # Without the status file, apt-cache shows the suite's packages only, not the installed ones.
    cat >"$directory/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$directory/sources";
Dir::State "$directory/state";
Dir::State::status "/dev/null";
Dir::Cache "$directory/cache";
Acquire::Languages "none";
CONF
    export APT_CONFIG="$directory/apt.conf"
}

# fetch_lists SUITE: replaces the lists of the suite before.
fetch_lists() {
    echo "$1:"
    write_sources "$1"
    # This fails if one of several archives does not have the suite. The others' lists are usable.
    apt-get -q update || :
}

# provide PACKAGE: fails if the current lists have no usable version.
provide() {
    describe "$1"
    version=$(apt-cache show "$1" | sed -n '/^Version: /{s///p;q;}')
    if [ -z "$version" ] || dpkg --compare-versions "$version" lt "$oldest"; then
        echo "$1 must be $oldest or newer, but the suite has ${version:-none}"
        return 1
    fi
    (cd "$directory" && apt-get -q download "$1=$version") || return 1
    dpkg-deb -x "$directory/$1"_*.deb "$directory/unpacked" || return 1
    mkdir -p "$target" || return 1
    for program in $programs; do
        unpacked=$directory/unpacked/usr/bin/${program%=*} file=$target/${program#*=}
        # A newer suite's program may need a newer C library than this machine has.
        "$unpacked" --version || return 1
        # The rename prevents a partial file under the final name.
        cp "$unpacked" "$file.new" && mv "$file.new" "$file" || return 1
    done
}

# write_sources SUITE: copies the system's own sources of its distribution, with mirrors and keys, and
# replaces only the suite. There are two formats.
write_sources() {
    own="($codename|stable|testing|unstable|sid|devel)"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -nE "s/^(deb( +\[[^]]*\])? +[^ ]+ +)$own /\1$1 /p" "$file"
    done >"$directory/sources/lines.list"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || awk -v "suite=$1" -v "own=$own" '
            BEGIN { RS = ""; ORS = "\n\n" }
            sub("(^|\n)Suites:([^\n]*[ \t])?" own "([ \t][^\n]*)?(\n|$)", "\nSuites: " suite "\n")' "$file"
    done >"$directory/sources/stanzas.sources"
}

provide_programs "$@"
