#!/bin/sh
# Measures the forwarder beside what it replaces, and beside the least that such a run can cost, with
# real programs and three sizes of payload. Prints tables and the targets, and writes both to
# tests/bench.md; fails if a target is missed. Takes about five minutes, and 4 GB for the gateway.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
only_verbs=yes
. ./install.sh
. deploy/demo.sh

encodings="text text+gzip protobuf protobuf+gzip"
contenders="pair careful $encodings floor:text floor:protobuf+gzip"
form_protobuf="application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
form_text="text/plain; version=0.0.4; charset=utf-8"

bench() {
    find_cargo
    install_programs
    install_packages nginx-light valgrind
    cargo build --quiet --release --locked

    trap 'rm -rf "${memory-}"; end_demo' EXIT
    trap 'exit 130' INT TERM HUP
    directory=$(mktemp -d)
    # For the lock, which is in memory as a rule, below /run.
    memory=$(mktemp -d -p /dev/shm)
    lock=$memory/lock
    # Copied, as install.sh copies it and as the system's programs were: what a linker has written lies in
    # memory in smaller pieces, and takes longer to start.
    forwarder=$directory/pgw-forwarder
    cp "${CARGO_TARGET_DIR:-target}/release/pgw-forwarder" "$forwarder"
    for program in floor measure; do
        rustc --edition 2024 -O -o "$directory/linked" "tests/bench/$program.rs"
        cp "$directory/linked" "$directory/$program"
    done
    # A proxy for the rest of the world is none for this host.
    export no_proxy=127.0.0.1
    start_servers

    limits=
    measure 50KB 10 30 "$node" metrics
    count
    limits="EXPORTER_SCRAPE_TIMEOUT=60 EXPORTER_MAX_BYTES=200000000 PGW_PUSH_TIMEOUT=60"
    measure 5MB 3 5 "$nginx" 5MB
    count
    measure 100MB 3 1 "$nginx" 100MB
    count
    lock_out

    missed=
    report >tests/bench.md
    cat tests/bench.md
    [ -z "$missed" ] || err "missed: $missed"
}

# The exporter of 50 KB, that of the larger pages, and the gateway.
start_servers() {
    node=127.0.0.1:$(free_port 19014)
    start node_exporter "http://$node/" "$(program node_exporter)" \
        "--web.listen-address=$node" --web.disable-exporter-metrics
    make_pages
    nginx=127.0.0.1:$(free_port 19080)
    cat >"$directory/nginx.conf" <<CONFIG
daemon off; master_process off; pid $directory/pid; error_log stderr; events {}
http {
    access_log off; client_body_temp_path $directory/body; proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/f; uwsgi_temp_path $directory/u; scgi_temp_path $directory/s;
    types { "$form_text" text; "$form_protobuf" protobuf; }
    map \$http_accept \$form { default text; ~protobuf protobuf; }
    server {
        listen $nginx; root $directory; gzip_static on;
        location = / { return 200 "alive"; }
        location / { try_files \$uri.\$form =404; }
    }
}
CONFIG
    start nginx "http://$nginx/" nginx -e stderr -c "$directory/nginx.conf"
    gateway=127.0.0.1:$(free_port 19091)
    # Unchecked, since the check costs more than all else, and more with each group.
    start pushgateway "http://$gateway/-/ready" "$(program pushgateway)" \
        "--web.listen-address=$gateway" --persistence.file= --push.disable-consistency-check
    gateway_pid=$server
}

# Makes the pages of 5 and 100 MB, in each form: what the node says, as if for many guests of its.
make_pages() {
    say "making payloads"
    mkdir "$directory/guests"
    curl -sS "http://$node/metrics" >"$directory/50KB.text"
    # What every exporter says of itself comes by itself.
    grep -vE '(^| )(node_exporter|node_scrape|node_textfile|promhttp)_' "$directory/50KB.text" \
        >"$directory/node"
    # Each series once for each guest, with a value that any of them has.
    awk 'NR == FNR { if (!/^#/) { value[count++] = $NF; bytes += length + 16 } next }
        /^#/ { print; next }
        {
            sub(/ [^ ]*$/, "")
            sub(/}$/, ",") || sub(/$/, "{")
            for (guest = 0; guest < 5e6 / bytes; guest++)
                printf "%sguest=\"vm%03d\"} %s\n", $0, guest, value[int(rand() * count)]
        }' "$directory/node" "$directory/node" >"$directory/guests/guests.prom"
    # The real program knows both forms.
    guests=127.0.0.1:$(free_port 19014)
    start guests "http://$guests/" "$(program node_exporter)" "--web.listen-address=$guests" \
        --web.disable-exporter-metrics --collector.disable-defaults --collector.textfile \
        "--collector.textfile.directory=$directory/guests"
    curl -sS "http://$guests/metrics" >"$directory/5MB.text"
    curl -sS --header "Accept: $form_protobuf" "http://$guests/metrics" >"$directory/5MB.protobuf"
    for form in text protobuf; do
        # Twenty times the same, but for the names of the families: they stay as long as they were,
        # so the lengths within the protobuf form stay true.
        for copy in $(seq 10 29); do
            LC_ALL=C sed "s/node_/no${copy}_/g; s/promhttp_/promht${copy}_/g" "$directory/5MB.$form"
        done >"$directory/100MB.$form"
    done
    gzip --keep "$directory"/*MB.*
}

# measure PAYLOAD ROUNDS RUNS EXPORTER METRIC: all in turn, so that what else the machine does is
# everybody's burden.
measure() {
    say "measuring with $1"
    payload=$1 rounds=$2 exporter=$4 metric=$5
    while [ "$((rounds -= 1))" -ge 0 ]; do
        for contender in $contenders; do
            pushed_before=$(pushed)
            busy_before=$(busy)
            as_cron "$directory/measure" "$3" 0 >"$directory/runs"
            busy=$(busy)
            # Or the gateway would have to show it.
            curl -sSf --request DELETE "http://$gateway/metrics/job/node/instance/bench"
            echo "$pushed_before $(pushed) $busy_before $busy" | awk -v runs="$3" '{
                # The pair does not tell whether the gateway took it.
                if ($3 - $1 != runs) exit 1
                printf "bytes %.0f\ngateway %.3f\n", ($4 - $2) / runs, ($6 - $5) / runs
            }' >"$directory/pushes" || err "$payload, $contender: not every run has pushed"
            awk '{ print "cpu", $1; print "wall", $2; print "peak", $3 }' "$directory/runs" |
                cat - "$directory/pushes" | sed "s/^/$payload $contender /" >>"$directory/results"
        done
    done
}

# as_cron TOOL...: runs the contender under the tool, with what cron's environment would have.
as_cron() {
    encoding=text
    case $contender in
        pair | careful) set -- "$@" sh "tests/bench/$contender.sh" ;;
        floor:*) set -- "$@" "$directory/floor" && encoding=${contender#*:} ;;
        *) set -- "$@" "$forwarder" && encoding=$contender ;;
    esac
    # shellcheck disable=SC2086 # a list of variables
    env -i PATH=/usr/bin:/bin "EXPORTER_ADDR=$exporter" "EXPORTER_METRIC=$metric" "PGW_ADDR=$gateway" \
        PGW_JOB=node PGW_INSTANCE=bench "PGW_ENCODING=$encoding" "FORWARDER_LOCK_FILE=$lock" \
        $limits "$@"
}

# What the gateway has counted: pushes that it has stored, and bytes of all, heads included.
pushed() {
    curl -sSf "http://$gateway/metrics" | awk '
        /^pushgateway_http_requests_total{code="202",handler="push",method="post"}/ { stored = $2 }
        /^pushgateway_http_push_size_bytes_sum{method="post"}/ { bytes = $2 }
        END { printf "%.0f %.0f\n", stored, bytes }'
}

# CPU time of the gateway so far, in milliseconds.
busy() {
    awk '{ sum += $1 } END { printf "%.3f\n", sum / 1e6 }' /proc/"$gateway_pid"/task/*/schedstat
}

# Counts the instructions of one run of each, in all of its processes.
count() {
    say "counting instructions with $payload"
    for contender in $contenders; do
        as_cron valgrind --tool=callgrind --callgrind-out-file=/dev/null --trace-children=yes \
            >"$directory/log" 2>&1 || err "$payload, $contender: $(cat "$directory/log")"
        awk -v of="$payload $contender instructions" '
            /Collected/ { sum += $NF }
            END { printf "%s %.0f\n", of, sum }' "$directory/log" >>"$directory/results"
    done
}

# How fast a run leaves that finds another one at work.
lock_out() {
    contender=text
    # As another run would: the lock, then the PID. It is to be expanded there, not here.
    # shellcheck disable=SC2016
    flock --no-fork "$lock" sh -c 'echo $$ >"$1"; exec sleep 600' sh "$lock" &
    servers="$servers $!"
    while flock --nonblock "$lock" true; do
        pause 0.1
    done
    as_cron "$directory/measure" 100 3 >"$directory/runs" 2>"$directory/log" ||
        err "$(cat "$directory/log")"
    awk '{ print "locked text wall", $2 }' "$directory/runs" >>"$directory/results"
}

report() {
    version=$("$(program pushgateway)" --version 2>&1 | awk '{ print $3; exit }')
    cat <<HEAD
\`tests/bench.sh\` has written this. The runs took turns, with a minimal environment, as under cron; peak
memory is that of the largest process. The gateway is a Pushgateway $version that does not check for
consistency; it counts the bytes of a push with its head.
HEAD
    table 50KB "50 KB: $(size 50KB.text) bytes of a real node_exporter"
    table 5MB "5 MB: $(size 5MB.text) bytes from nginx, in protobuf $(size 5MB.protobuf)"
    table 100MB "100 MB: $(size 100MB.text) bytes from nginx, in protobuf $(size 100MB.protobuf)"
    echo
    echo "| target | at most | measured | | the floor has |"
    echo "|---|---|---|---|---|"
    target "50 KB of text: instructions" 800000 50KB text instructions
    target "50 KB of text: CPU time, of the curl pair's" 0.12 50KB text cpu pair
    target "50 KB of text: CPU time, of the careful script's" 0.07 50KB text cpu careful
    target "50 KB of text: wall time, of the curl pair's" 0.6 50KB text wall pair
    target "50 KB of text: wall time, of the careful script's" 0.4 50KB text wall careful
    target "50 KB of text: peak memory, KiB" 4096 50KB text peak
    target "50 KB of protobuf+gzip: bytes of the push, of text's" 0.17 50KB protobuf+gzip bytes text
    target "50 KB of protobuf+gzip: gateway's CPU time, of text's" 0.6 50KB protobuf+gzip gateway text
    target "100 MB of text: peak memory, KiB; the payload + 4096" $(($(size 100MB.text) / 1024 + 4096)) \
        100MB text peak
    target "100 MB of text: CPU time, of the curl pair's" 0.4 100MB text cpu pair
    target "100 MB of text+gzip: peak memory, KiB" 12288 100MB text+gzip peak
    result "size of the program, bytes" 4000000 "$(wc -c <"$forwarder")" -
    result "wall time of a run that the lock turns away, ms" 100 "$(value locked text wall)" -
}

# table PAYLOAD TITLE
table() {
    cat <<HEAD

$2; medians of $(grep -c "^$1 pair cpu " "$directory/results") runs.

| | CPU, ms | of the pair's | of the script's | wall, ms | of the pair's | of the script's | peak memory, KiB | instructions | bytes of the push | gateway's CPU, ms |
|---|---|---|---|---|---|---|---|---|---|---|
HEAD
    for contender in $contenders; do
        case $contender in
            pair) printf '| curl pair' ;;
            careful) printf '| careful script' ;;
            floor:*) printf '| floor: raw sockets, %s' "${contender#*:}" ;;
            *) printf '| pgw-forwarder, %s' "$contender" ;;
        esac
        for quantity in cpu wall; do
            printf ' | %.2f | %s | %s' "$(value "$1" "$contender" "$quantity")" \
                "$(ratio "$1" "$contender" "$quantity" pair)" \
                "$(ratio "$1" "$contender" "$quantity" careful)"
        done
        printf ' | %s | %s | %s | %.2f |\n' "$(value "$1" "$contender" peak)" \
            "$(value "$1" "$contender" instructions)" "$(value "$1" "$contender" bytes)" \
            "$(value "$1" "$contender" gateway)"
    done
}

# value PAYLOAD CONTENDER QUANTITY: the median.
value() {
    grep -F "$1 $2 $3 " "$directory/results" | sort -k 4n |
        awk '{ value[NR] = $4 } END { print NR ? value[int((NR + 1) / 2)] : "-" }'
}

# ratio PAYLOAD CONTENDER QUANTITY OTHER: the median, as a part of the other contender's unless that is "".
ratio() {
    if [ -z "$4" ]; then
        value "$1" "$2" "$3"
        return
    fi
    echo "$(value "$1" "$2" "$3") $(value "$1" "$4" "$3")" |
        awk '/-/ { print "-"; exit } { printf "%.3f\n", $1 / $2 }'
}

size() {
    wc -c <"$directory/$1"
}

# target WORDS LIMIT PAYLOAD ENCODING QUANTITY [OTHER]: what the forwarder has to reach, and the floor has.
target() {
    case ${6-} in
        text) floors_other=floor:text ;;
        *) floors_other=${6-} ;;
    esac
    result "$1" "$2" "$(ratio "$3" "$4" "$5" "${6-}")" "$(ratio "$3" "floor:$4" "$5" "$floors_other")"
}

# result WORDS LIMIT MEASURED FLOOR
result() {
    verdict=reached
    awk -v most="$2" -v seen="$3" 'BEGIN { exit !(seen != "-" && seen + 0 <= most + 0) }' ||
        verdict=missed missed="$missed$1; "
    echo "| $1 | $2 | $3 | $verdict | $4 |"
}

bench
