#!/bin/sh
# Runs a fleet against one gateway for some minutes of the clock, and reports each minute. The forwarders
# are real, and all start in second 0 of the minute, as cron does it. They share one real node_exporter.
# Fails if a push fails or the gateway does not have the group of each node.
set -eu
cd "$(dirname "$0")/.."
only_verbs=yes
. ./install.sh
. deploy/demo.sh

help() {
    cat <<'USAGE'
Usage: tests/fleet.sh NODES [--splay S] [--unchecked] [--target pushgateway|victoriametrics] [--minutes M]

The forwarder's variables apply: EXPORTER_METRIC='metrics?collect[]=cpu' makes smaller pushes,
PGW_COMPRESSION=gzip compresses them.

A push counts for the minute in which it started. The forwarder measures its time. The gateway's CPU is
that from one second 0 to the next, its memory that of second 55. In that second the script also asks for
its /metrics, or VictoriaMetrics for a query about all nodes, and measures the time. Statuses 4 and 5 are
failures of the exporter, which all nodes share, 6 and 7 failures of the gateway.
USAGE
}

read_arguments() {
    nodes='' splay=0 check=yes target=pushgateway minutes=3
    while [ $# -gt 0 ]; do
        option=$1
        shift
        case $option in
            -h | --help) help && exit 0 ;;
            --unchecked) check='' && continue ;;
            [1-9]*) nodes=$option && continue ;;
        esac
        [ $# -gt 0 ] || wrong "$option is no option, or its value is missing"
        case $option in
            --splay) splay=$1 ;;
            --target) target=$1 ;;
            --minutes) minutes=$1 ;;
            *) wrong "$option is no option" ;;
        esac
        shift
    done
    case $nodes:$minutes in
        :* | *: | *[!0-9:]*) wrong "how many nodes, and for how many minutes?" ;;
    esac
    case $target$check in
        pushgateway* | victoriametricsyes) ;;
        *) wrong "--target: pushgateway, unchecked or not, or victoriametrics" ;;
    esac
}

fleet() {
    read_arguments "$@"
    find_cargo
    install_programs
    cargo build --quiet --release --locked
    build=${CARGO_TARGET_DIR:-target}
    forwarder=$build/release/pgw-forwarder

    trap end_fleet EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    mkdir "$directory/locks"
    EXPORTER_ADDR=127.0.0.1:$(free_port 19014)
    export EXPORTER_ADDR PGW_ADDR PGW_INSTANCE FORWARDER_LOCK_FILE FORWARDER_SPLAY="$splay" no_proxy=127.0.0.1
    # By default an exporter refuses more than 40 scrapes at once, and this one has all nodes.
    start node_exporter "http://$EXPORTER_ADDR/" "$(program node_exporter)" \
        "--web.listen-address=$EXPORTER_ADDR" --web.disable-exporter-metrics --web.max-requests=0
    start_gateway
    gateway=$server

    series=$("$forwarder" --dry-run | grep -c '^[^#]')
    say "$nodes nodes, $series series each, compression ${PGW_COMPRESSION:-none}, splay $splay, $about; $(nproc) cores for all"
    echo "| minute | stored | failed | median, ms | 99th percentile, ms | started within, s | gateway CPU, s | memory, MiB | $what |"
    echo "|---|---|---|---|---|---|---|---|---|"
    until_second 0
    minute=0
    while [ "$minute" -lt "$minutes" ]; do
        minute=$((minute + 1))
        cpu >"$directory/$minute.from"
        run_minute "$minute" &
        runs="${runs-} $!"
        until_second 55
        awk '/^VmRSS/ { printf "%.0f", $2 / 1024 }' "/proc/$gateway/status" >"$directory/$minute.memory"
        # The next minute does not wait for a slow response.
        { time_of "$look" || echo " (failed)"; } >"$directory/$minute.look" &
        until_second 0
        cpu >"$directory/$minute.to"
    done
    for run in $runs; do
        wait "$run"
    done
    conclude
}

start_gateway() {
    PGW_ADDR=127.0.0.1:$(free_port 19091)
    page=http://$PGW_ADDR
    if [ "$target" = pushgateway ]; then
        about="a Pushgateway${check:+ that checks}" what=scrape look=$page/metrics
        start pushgateway "$page/-/ready" "$(program pushgateway)" "--web.listen-address=$PGW_ADDR" \
            --persistence.file= "--${check:+no-}push.disable-consistency-check"
    else
        # Every node has this series.
        about=VictoriaMetrics what=query look="$page/api/v1/query?query=count(node_exporter_build_info)"
        tests/newer-programs.sh victoria-metrics
        start victoria-metrics "$page/health" "$build/victoria-metrics" "-httpListenAddr=$PGW_ADDR" \
            "-storageDataPath=$directory/data" -search.latencyOffset=0s
        PGW_ADDR=$page/api/v1/import/prometheus
    fi
}

# run_minute N: runs all nodes once, and prints the minute's row.
run_minute() {
    files=$directory/$1 began=$(date +%s)
    read -r self _ </proc/self/stat
    trap 'kill $(children "$self") 2>/dev/null; exit 1' TERM
    # Real nodes are other machines, which take no CPU from the gateway.
    renice -n 10 "$self" >/dev/null
    # They share a log: each line is one write to its end.
    exec 3>>"$files.log"
    node=0 pids=
    while [ "$node" -lt "$nodes" ]; do
        node=$((node + 1))
        PGW_INSTANCE=$((100000 + node))
        PGW_INSTANCE=node-${PGW_INSTANCE#1}
        FORWARDER_LOCK_FILE=$directory/locks/$PGW_INSTANCE
        "$forwarder" -v 2>&3 &
        pids="$pids $!"
    done
    launched=$(date +%s.%N)
    for pid in $pids; do
        wait "$pid" && echo 0 || echo $?
    done >"$files.statuses"
    until [ -s "$files.to" ] && [ -s "$files.look" ]; do
        sleep 1
    done

    sed -n 's/.*: info: gateway .* answered 20.* after \([0-9]*\) ms$/\1/p' "$files.log" |
        sort -n >"$files.times"
    echo "| $1 | $(grep -cx 0 "$files.statuses") | $(failed "$files.statuses")" \
        "| $(percentile 50 "$files.times") | $(percentile 99 "$files.times")" \
        "| $(difference "$began" "$launched") | $(difference "$(cat "$files.from")" "$(cat "$files.to")")" \
        "| $(cat "$files.memory") | $(cat "$files.look") |"
}

# failed FILE: the number of statuses in it that are not 0, and which.
failed() {
    sort -n "$1" | uniq -c | awk '
        $2 != 0 { sum += $1; by = by (by == "" ? "" : ", ") $1 " with status " $2 }
        END { print sum + 0 (by == "" ? "" : ": " by) }'
}

# percentile N FILE: the N-th percentile of sorted numbers.
percentile() {
    awk -v "n=$1" '{ all[NR] = $1 } END { print NR ? all[int((NR * n + 99) / 100)] : "-" }' "$2"
}

difference() {
    awk "BEGIN { printf \"%.1f\", $2 - $1 }"
}

# Seconds of CPU that the gateway has used so far.
cpu() {
    awk -v "ticks=$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / ticks }' "/proc/$gateway/stat"
}

children() {
    cat /proc/[0-9]*/stat 2>/dev/null |
        awk -v "parent=$1" '{ pid = $1; sub(/.*\) /, ""); if ($2 == parent) print pid }'
}

# time_of URL: the time that a response takes, requested as Prometheus does it.
time_of() {
    curl --silent --fail --max-time 50 --header "Accept-Encoding: gzip" --output /dev/null \
        --write-out '%{time_total} s' "$1"
}

# Sleeps until the clock shows this second of a minute.
until_second() {
    pause "$(date +%S.%N | awk -v "second=$1" '{ left = second - $1; print left < 0 ? left + 60 : left }')"
}

# The number of nodes on the gateway.
held() {
    if [ "$target" = pushgateway ]; then
        curl --silent --fail "$look" | grep -c '^push_time_seconds{'
    else
        curl --silent --fail "$look" | sed 's/.*,"\([0-9]*\)"\].*/\1/'
    fi
}

conclude() {
    cat "$directory"/*.statuses >"$directory/all"
    stored=$(grep -cx 0 "$directory/all") || :
    # VictoriaMetrics shows the last samples late.
    tries=60
    until known=$(held) && [ "$known" = "$nodes" ] || [ "$tries" = 0 ]; do
        tries=$((tries - 1))
        pause 0.5
    done
    say "of $((nodes * minutes)) pushes $stored were stored; failed: $(failed "$directory/all");" \
        "the gateway has $known of $nodes nodes"
    [ "$stored:$known" = "$((nodes * minutes)):$nodes" ] || {
        grep -h ': error: ' "$directory"/*.log |
            sed 's/node-[0-9]*/node-.../g; s/PID [0-9]*/PID .../' | sort | uniq -c | sort -rn | head -n 5 >&2
        err "not every push was stored, see above"
    }
}

end_fleet() {
    trap '' INT TERM HUP
    # Minutes that still run; each ends its own forwarders.
    # shellcheck disable=SC2046 # a list of PIDs
    kill $(children $$) 2>/dev/null || :
    end_demo
}

fleet "$@"
