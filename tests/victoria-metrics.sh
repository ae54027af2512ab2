#!/bin/sh
# Puts a VictoriaMetrics into the target directory, for the tests and measurements: the distribution's,
# or, where that is too old, the one of a newer suite of the same distribution. apt gets it, from where
# it gets everything, and verified as everything, but with lists and a cache that are gone afterwards.
# Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
only_verbs=yes
. ./install.sh

package=victoria-metrics
# The first that takes a Pushgateway's URLs.
least=1.84
# vmagent is the one of its programs that takes those of the cluster.
programs="victoria-metrics vmagent"

get_programs() {
    target=${CARGO_TARGET_DIR:-target}
    # They do not tell their version, but only this script puts them there.
    ! are_there || return 0
    has apt-get || err "there is no apt-get to get $package $least or newer from the distribution"
    trap 'rm -rf "$directory"' EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    # apt fetches as a user of its own.
    chmod 755 "$directory"
    mkdir -p "$directory/sources" "$directory/state/lists/partial" "$directory/cache/archives/partial"
    cat >"$directory/apt.conf" <<CONF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$directory/sources";
Dir::State "$directory/state";
Dir::Cache "$directory/cache";
Acquire::Languages "none";
CONF
    export APT_CONFIG="$directory/apt.conf"

    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for suite in "$codename" stable testing unstable devel; do
        get_from "$suite" >>"$directory/log" 2>&1 || continue
        say "$package $version of $suite is in $target"
        return
    done
    err "no suite of this distribution has $package $least or newer: $(cat "$directory/log")"
}

are_there() {
    for name in $programs; do
        [ -x "$target/$name" ] || return 1
    done
}

# get_from SUITE: fails if it is not there, or not with a new enough package.
get_from() {
    echo "$1:"
    make_sources "$1"
    # This fails where one of several archives does not have the suite.
    apt-get -q update || :
    version=$(apt-cache show "$package" | sed -n '/^Version: /{s///p;q;}')
    [ -n "$version" ] && dpkg --compare-versions "$version" ge "$least" || return 1
    (cd "$directory" && apt-get -q download "$package=$version") || return 1
    dpkg-deb -x "$directory/$package"_*.deb "$directory/unpacked" || return 1
    mkdir -p "$target"
    for name in $programs; do
        # Never a part of one under its name.
        cp "$directory/unpacked/usr/bin/$name" "$target/$name.new" && mv "$target/$name.new" "$target/$name" ||
            return 1
    done
}

# make_sources SUITE: the system's own sources of its distribution, mirror and keys included, but for
# the suite. They come in two formats.
make_sources() {
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

get_programs
