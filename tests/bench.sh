#!/bin/sh
# Compares pgw-forwarder with the curl pair, a careful script, and a bare program on raw sockets, "the
# floor". Writes tests/bench.md, and fails if a target is missed. Takes about five minutes and 4 GB of
# memory, most of it for the gateway.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
only_verbs=yes
. ./install.sh
. deploy/demo.sh

bench() {
    find_cargo
    install_programs
    packages_without_services nginx-light systemd valgrind

    trap 'rm -rf "${memory-}"; end_demo' EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    # The lock file is on a tmpfs, as by default, below /run.
    memory=$(mktemp -d -p /dev/shm)
    lock=$memory/lock
    build
    # A proxy in the environment must not serve this host.
    export no_proxy=127.0.0.1
    start_servers

    exporter=$node socket=$directory/node.sock limits=
    measure 50KB metrics 10 30
    exporter=$nginx socket=$directory/nginx.sock
    limits="EXPORTER_SCRAPE_TIMEOUT=120 EXPORTER_MAX_BYTES=200000000 PGW_PUSH_TIMEOUT=120"
    measure 5MB 5MB 3 5
    measure 100MB 100MB 3 1
    measure_locked_out

    missed=
    report >tests/bench.md
    cat tests/bench.md
    [ -z "$missed" ] || err "missed: $missed"
}

# Builds the static program, which is the released one, the dynamic one of a usual build, and the helpers.
build() {
    say "building"
    target=${CARGO_TARGET_DIR:-target}
    cargo build --quiet --locked --release
    cargo rustc --quiet --locked --release --bin pgw-forwarder --target-dir "$target/static" -- \
        -C target-feature=+crt-static
    # A copy starts faster than the linker's own file, which lies in memory in smaller pieces. Installed
    # programs are copies as well.
    cp "$target/release/pgw-forwarder" "$directory/dynamic"
    cp "$target/static/release/pgw-forwarder" "$directory/static"
    for helper in floor measure; do
        rustc --edition 2024 -O -o "$directory/linked" "tests/bench/$helper.rs"
        cp "$directory/linked" "$directory/$helper"
    done
}

# Starts two exporters, each on TCP and on a Unix socket, and the gateway: node_exporter for 50 KB, nginx
# for 5 and 100 MB.
start_servers() {
    node=127.0.0.1:$(free_port 19014)
    start node_exporter "http://$node/metrics" systemd-socket-activate \
        --listen="$node" --listen="$directory/node.sock" \
        "$(program node_exporter)" --web.systemd-socket --web.disable-exporter-metrics
    curl -sS "http://$node/metrics" >"$directory/50KB"
    make_payload 5e6 >"$directory/5MB"
    make_payload 1e8 >"$directory/100MB"

    nginx=127.0.0.1:$(free_port 19080)
    cat >"$directory/nginx.conf" <<CONFIG
daemon off; master_process off; pid $directory/pid; error_log stderr; events {}
http {
    access_log off; client_body_temp_path $directory/body; proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
    default_type "text/plain; version=0.0.4; charset=utf-8";
    server { listen $nginx; listen unix:$directory/nginx.sock; root $directory; }
}
CONFIG
    start nginx "http://$nginx/5MB" nginx -e stderr -c "$directory/nginx.conf"

    gateway=127.0.0.1:$(free_port 19091)
    # The consistency check is off. It costs more than everything else, and more with each group.
    start pushgateway "http://$gateway/-/ready" "$(program pushgateway)" \
        "--web.listen-address=$gateway" --persistence.file= --push.disable-consistency-check
    gateway_pid=$server
}

# make_payload BYTES: node_exporter's own payload with each series repeated, one per "guest". The values
# are drawn from the real ones, so that they compress as usual.
make_payload() {
    awk -v wanted="$1" '
        NR == FNR { if (!/^#/) { value[count++] = $NF; bytes += length + 17 } next }
        /^#/ { print; next }
        {
            sub(/ [^ ]*$/, "")
            sub(/}$/, ",") || sub(/$/, "{")
            for (guest = 0; guest < wanted / bytes; guest++)
                printf "%sguest=\"vm%04d\"} %s\n", $0, guest, value[int(rand() * count)]
        }' "$directory/50KB" "$directory/50KB"
}

contenders() {
    echo pair careful none none:unix gzip gzip:unix
    [ "$1" != 50KB ] || echo dynamic
    echo floor
}

# measure PAYLOAD METRIC ROUNDS RUNS: measures all contenders. They take turns, so that other load on this
# machine slows all of them alike.
measure() {
    payload=$1 metric=$2 rounds=$3 runs=$4
    say "measuring with $payload"
    while [ "$((rounds -= 1))" -ge 0 ]; do
        for contender in $(contenders "$payload"); do
            measure_contender
        done
    done
    say "counting instructions with $payload"
    for contender in $(contenders "$payload"); do
        count_instructions
    done
}

# Adds "PAYLOAD CONTENDER QUANTITY VALUE" lines to the results.
measure_contender() {
    pushes=$(count_pushes)
    busy=$(gateway_cpu)
    as_cron "$directory/measure" "$runs" 0 >"$directory/runs"
    busy="$busy $(gateway_cpu)"
    # Otherwise the gateway would list the whole group among its own metrics, below.
    curl -sSf --request DELETE "http://$gateway/metrics/job/node/instance/bench"
    # The exit status of the pair does not say whether the gateway stored its push.
    echo "$pushes $(count_pushes) $busy" | awk -v runs="$runs" '{
        if ($3 - $1 != runs) exit 1
        printf "bytes %.0f\ngateway %.3f\n", ($4 - $2) / runs, ($6 - $5) / runs
    }' >"$directory/pushes" || err "$payload, $contender: not every run pushed"
    awk '{ print "cpu", $1; print "wall", $2; print "peak", $3 }' "$directory/runs" |
        cat - "$directory/pushes" | sed "s/^/$payload $contender /" >>"$directory/results"
}

# Counts the instructions of one run, in all of its processes.
count_instructions() {
    as_cron valgrind --tool=callgrind --callgrind-out-file=/dev/null --trace-children=yes \
        >"$directory/log" 2>&1 || err "$payload, $contender: $(cat "$directory/log")"
    awk -v key="$payload $contender instructions" '
        /Collected/ { sum += $NF }
        END { if (!sum) exit 1; printf "%s %.0f\n", key, sum }' "$directory/log" >>"$directory/results"
}

# as_cron TOOL...: runs the contender under the tool, in an environment as small as cron's.
as_cron() {
    address=$exporter compression=none
    case $contender in
        pair | careful) set -- "$@" sh "tests/bench/$contender.sh" ;;
        floor | dynamic) set -- "$@" "$directory/$contender" ;;
        *) set -- "$@" "$directory/static" && compression=${contender%:unix} ;;
    esac
    case $contender in
        *:unix) address=unix:$socket ;;
    esac
    # shellcheck disable=SC2086 # a list of variables
    env -i PATH=/usr/bin:/bin "EXPORTER_ADDR=$address" "EXPORTER_METRIC=$metric" "PGW_ADDR=$gateway" \
        PGW_JOB=node PGW_INSTANCE=bench "PGW_COMPRESSION=$compression" "FORWARDER_LOCK_FILE=$lock" \
        $limits "$@"
}

# Prints how many pushes the gateway has stored, and the bytes of all, heads included.
count_pushes() {
    curl -sSf "http://$gateway/metrics" | awk '
        /^pushgateway_http_requests_total{code="202",handler="push",method="post"}/ { stored = $2 }
        /^pushgateway_http_push_size_bytes_sum{method="post"}/ { bytes = $2 }
        END { printf "%.0f %.0f\n", stored, bytes }'
}

# Prints the gateway's CPU time so far, in milliseconds.
gateway_cpu() {
    awk '{ sum += $1 } END { printf "%.3f\n", sum / 1e6 }' /proc/"$gateway_pid"/task/*/schedstat
}

# Measures a run that finds the lock taken.
measure_locked_out() {
    say "measuring a run that finds the lock taken"
    contender=none
    # Another run would lock the file and write its PID. The inner shell expands both.
    # shellcheck disable=SC2016
    flock --no-fork "$lock" sh -c 'echo $$ >"$1"; exec sleep 600' sh "$lock" &
    servers="$servers $!"
    while flock --nonblock "$lock" true; do
        pause 0.1
    done
    as_cron "$directory/measure" 100 3 >"$directory/runs" 2>"$directory/log" ||
        err "$(cat "$directory/log")"
    awk '{ print "locked none wall", $2 }' "$directory/runs" >>"$directory/results"
}

report() {
    version=$("$(program pushgateway)" --version 2>&1 | awk '{ print $3; exit }')
    cat <<HEAD
\`tests/bench.sh\` wrote this file. The contenders took turns, with an environment as small as cron's. Peak
memory is that of the largest process. The gateway is Pushgateway $version with its consistency check off;
the bytes of a push include the head of the request.
HEAD
    table 50KB node_exporter
    table 5MB nginx
    table 100MB nginx
    echo
    echo "| target | at most | measured | |"
    echo "|---|---|---|---|"
    target "50 KB, none: instructions" 1800000 50KB none instructions
    for compression in none gzip; do
        target "50 KB, $compression: CPU, of the pair's" 0.15 50KB "$compression" cpu pair
        target "50 KB, $compression: CPU, of the floor's" 1.4 50KB "$compression" cpu floor
        target "50 KB, $compression: peak memory, KiB" 5120 50KB "$compression" peak
        target "100 MB, $compression: peak memory, KiB (payload + 8192)" \
            $(($(size 100MB) / 1024 + 8192)) 100MB "$compression" peak
    done
    target "50 KB, none: CPU, of the dynamically linked program's" 1 50KB none cpu dynamic
    target "a run that finds the lock taken: wall time, ms" 100 locked none wall
    result "size of the program, bytes" 4000000 "$(size static)"
}

# table PAYLOAD EXPORTER
table() {
    cat <<HEAD

$1: $(size "$1") bytes from $2; medians of $(grep -c "^$1 pair cpu " "$directory/results") runs.

| | CPU, ms | of the pair's | of the floor's | wall, ms | peak memory, KiB | instructions | push, bytes | gateway's CPU, ms |
|---|---|---|---|---|---|---|---|---|
HEAD
    for contender in $(contenders "$1"); do
        printf '| %s | %.2f | %s | %s | %.2f | %s | %s | %s | %.2f |\n' "$(describe "$contender")" \
            "$(median "$1" "$contender" cpu)" "$(ratio "$1" "$contender" cpu pair)" \
            "$(ratio "$1" "$contender" cpu floor)" "$(median "$1" "$contender" wall)" \
            "$(median "$1" "$contender" peak)" "$(median "$1" "$contender" instructions)" \
            "$(median "$1" "$contender" bytes)" "$(median "$1" "$contender" gateway)"
    done
}

describe() {
    case $1 in
        pair) echo "curl pair" ;;
        careful) echo "careful script" ;;
        floor) echo "floor: raw sockets, dynamically linked" ;;
        dynamic) echo "pgw-forwarder, none, dynamically linked" ;;
        *:unix) echo "pgw-forwarder, ${1%:unix}, Unix socket" ;;
        *) echo "pgw-forwarder, $1" ;;
    esac
}

# median PAYLOAD CONTENDER QUANTITY
median() {
    sed -n "s/^$1 $2 $3 //p" "$directory/results" | sort -n |
        awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

# ratio PAYLOAD CONTENDER QUANTITY OTHER: the median as a part of the other contender's.
ratio() {
    echo "$(median "$1" "$2" "$3") $(median "$1" "$4" "$3")" | awk '{ printf "%.3f\n", $1 / $2 }'
}

size() {
    wc -c <"$directory/$1"
}

# target NAME LIMIT PAYLOAD CONTENDER QUANTITY [OTHER]: checks the median, or its ratio to the other's.
target() {
    if [ $# = 5 ]; then
        result "$1" "$2" "$(median "$3" "$4" "$5")"
    else
        result "$1" "$2" "$(ratio "$3" "$4" "$5" "$6")"
    fi
}

# result NAME LIMIT MEASURED
result() {
    verdict=reached
    awk -v most="$2" -v measured="$3" 'BEGIN { exit !(measured != "" && measured + 0 <= most + 0) }' ||
        verdict=missed missed="$missed$1; "
    echo "| $1 | $2 | $3 | $verdict |"
}

bench
