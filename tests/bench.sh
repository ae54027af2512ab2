#!/bin/sh
# Measures a run of the forwarder beside the curl pair that it replaces, in one go: a real
# node_exporter, a real Pushgateway, the two in turn. Prints a table; fails if a bound is missed.
set -eu
cd "$(dirname "$0")/.."
only_verbs=yes
. ./install.sh
. deploy/demo.sh

bench() {
    find_cargo
    install_programs
    install_packages hyperfine time valgrind
    cargo build --quiet --release --locked

    trap end_demo EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    FORWARDER_LOCK_FILE=$directory/lock no_proxy=127.0.0.1
    EXPORTER_ADDR=127.0.0.1:$(free_port 19014)
    export EXPORTER_ADDR PGW_ADDR FORWARDER_LOCK_FILE no_proxy
    start node_exporter "http://$EXPORTER_ADDR/" "$(program node_exporter)" \
        "--web.listen-address=$EXPORTER_ADDR" --web.disable-exporter-metrics
    PGW_ADDR=127.0.0.1:$(free_port 19091)
    start pushgateway "http://$PGW_ADDR/-/ready" "$(program pushgateway)" \
        "--web.listen-address=$PGW_ADDR" --persistence.file=

    forwarder=${CARGO_TARGET_DIR:-target}/release/pgw-forwarder
    pair=$directory/pair.sh
    cat >"$pair" <<'PAIR'
curl -s http://$EXPORTER_ADDR/metrics |
    curl -s --data-binary @- http://$PGW_ADDR/metrics/job/node/instance/pair
PAIR
    hyperfine --shell=none --warmup 20 --runs 300 --export-csv "$directory/times" \
        "sh $pair" "$forwarder" >"$directory/hyperfine.log" 2>&1 ||
        err "hyperfine: $(cat "$directory/hyperfine.log")"
    # As another run would: the lock, then the PID. It is to be expanded there, not here.
    # shellcheck disable=SC2016
    flock --no-fork "$FORWARDER_LOCK_FILE" sh -c 'echo $$ >"$FORWARDER_LOCK_FILE"; exec sleep 600' &
    servers="$servers $!"
    until "$forwarder" -q || [ $? = 3 ]; do
        pause 0.1
    done
    hyperfine --shell=none --warmup 5 --runs 100 --ignore-failure --export-csv "$directory/locked" \
        "$forwarder -q" >/dev/null 2>&1
    FORWARDER_LOCK_FILE=$directory/another

    payload=$("$forwarder" --dry-run | wc -c)
    echo "Payload: $payload bytes of a real node_exporter. Times: means of 300 runs."
    echo
    echo "| | curl pair | pgw-forwarder | bound |"
    echo "|---|---|---|---|"
    row "CPU time, ms" "$(cpu 2)" "$(cpu 3)" "1/5 of the pair's" "$(cpu 2) / 5"
    row "wall time, ms" "$(wall times 2)" "$(wall times 3)" "" inf
    row "instructions, million" "$(instructions sh "$pair")" "$(instructions "$forwarder")" "" inf
    row "peak memory, KiB" "$(memory sh "$pair")" "$(memory "$forwarder")" "5120" 5120
    row "size of the program, bytes" "" "$(wc -c <"$forwarder")" "4000000" 4000000
    row "wall time of a run that the lock turns away, ms" "" "$(wall locked 2)" "100" 100
    [ -z "${missed-}" ] || err "missed: $missed"
}

# row NAME PAIR FORWARDER BOUND LIMIT
row() {
    echo "| $1 | $2 | $3 | $4 |"
    awk "BEGIN { exit !($3 <= ${5:-0} || \"$5\" == \"inf\") }" || missed="${missed-}$1; "
}

# User and system time in line $1 of hyperfine's table, and the mean time of line $2 in table $1.
cpu() {
    awk -F, "NR == $1 { printf \"%.2f\", (\$5 + \$6) * 1000 }" "$directory/times"
}

wall() {
    awk -F, "NR == $2 { printf \"%.2f\", \$2 * 1000 }" "$directory/$1"
}

memory() {
    /usr/bin/time -v "$@" 2>&1 >/dev/null | awk '/Maximum resident set size/ { print $NF }'
}

instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --trace-children=yes "$@" 2>&1 |
        awk '/Collected/ { sum += $NF } END { printf "%.2f", sum / 1e6 }'
}

bench
