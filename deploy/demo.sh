# shellcheck shell=sh disable=SC2154
# "install.sh --demo". The tests use its functions to install packages and to start servers.

demo() {
    find_cargo
    install_programs
    say "building pgw-forwarder"
    cargo build --release --locked
    forwarder=${CARGO_TARGET_DIR:-target}/release/pgw-forwarder

    trap end_demo EXIT
    trap 'say "ending"; exit 0' INT TERM HUP
    trap 'exit 1' PIPE
    directory=$(mktemp -d)
    # A proxy for the rest of the world is none for this host.
    export no_proxy=127.0.0.1

    exporter=127.0.0.1:$(free_port 9014)
    say "starting node_exporter on $exporter: the node, reachable from this host only"
    start node_exporter "http://$exporter/" "$(program node_exporter)" \
        "--web.listen-address=$exporter" --web.disable-exporter-metrics
    gateway=127.0.0.1:$(free_port 9091)
    say "starting Pushgateway on $gateway"
    start pushgateway "http://$gateway/-/ready" "$(program pushgateway)" \
        "--web.listen-address=$gateway" --persistence.file=
    prometheus=127.0.0.1:$(free_port 9090)
    say "starting Prometheus on $prometheus: it scrapes the Pushgateway, not the node"
    cp -r deploy/prometheus/. "$directory"
    sed "s/gateway:9091/$gateway/; s/localhost:9090/$prometheus/; s/15s/2s/" \
        deploy/prometheus/prometheus.yml >"$directory/prometheus.yml"
    start prometheus "http://$prometheus/-/ready" "$(program prometheus)" \
        "--config.file=$directory/prometheus.yml" "--storage.tsdb.path=$directory/data" \
        "--web.listen-address=$prometheus" "--web.console.templates=$directory/consoles" \
        "--web.console.libraries=$directory/consoles"

    say "pushing once, as cron does every minute:"
    echo "EXPORTER_ADDR=$exporter PGW_ADDR=$gateway $forwarder -v"
    push -v
    show_answer "node_load1{job=\"node\",instance=\"$(uname -n)\"}"

    say "look for yourself; it pushes every 5 seconds until you press Ctrl-C"
    echo "node_exporter  http://$exporter/metrics"
    echo "Pushgateway    http://$gateway/"
    echo "Prometheus     http://$prometheus/graph?g0.expr=node_load1&g0.tab=0&g0.range_input=5m"
    echo "the fleet      http://$prometheus/consoles/fleet.html"
    while pause 5; do
        # Ctrl-C may end the push before the script sees it.
        push || [ $? -gt 128 ] || err "a push has failed, see above; the demo is over"
    done
}

push() {
    EXPORTER_ADDR=$exporter PGW_ADDR=$gateway FORWARDER_LOCK_FILE=$directory/lock "$forwarder" "$@"
}

# Asks Prometheus until it has scraped what was pushed.
show_answer() {
    say "asking Prometheus: $1"
    tries=30
    until answer=$(promtool query instant "http://$prometheus" "$1" 2>&1) && [ -n "$answer" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || err "Prometheus does not know it: $answer $(cat "$directory/prometheus.log")"
        pause 1
    done
    echo "$answer"
}

# start NAME URL COMMAND...: runs a server in the background until URL answers.
start() {
    name=$1 url=$2
    shift 2
    # In a session of its own: Ctrl-C is for this script, which ends it in its turn.
    setsid "$@" >"$directory/$name.log" 2>&1 &
    server=$!
    servers="${servers-} $server"
    until curl --silent --fail --max-time 2 --output /dev/null "$url"; do
        is_alive "$server" || err "$name ended: $(cat "$directory/$name.log")"
        pause 0.1
    done
    # Somebody else may have been faster to take the port, and have answered.
    pause 0.1
    is_alive "$server" || err "$name ended: $(cat "$directory/$name.log")"
}

is_alive() {
    kill -0 "$1" 2>/dev/null
}

# Sleeps so that a signal is answered at once.
pause() {
    sleep "$1" &
    sleeper=$!
    wait "$sleeper"
}

end_demo() {
    trap '' INT TERM HUP PIPE
    # Their ends are expected, whatever their statuses.
    # shellcheck disable=SC2086 # a list of PIDs
    kill ${servers-} ${sleeper-} 2>/dev/null || :
    wait
    [ -z "${directory-}" ] || rm -rf "$directory"
}

# The first port from $1 on where nothing listens.
free_port() {
    port=$1
    while listens_on "$port"; do
        port=$((port + 1))
    done
    echo "$port"
}

# Whether a program listens on port $1, as the kernel shows it.
listens_on() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        grep -q "^ *[0-9]*: [0-9A-F]*:$(printf %04X "$1") [0-9A-F]*:0000 0A "
}

find_cargo() {
    PATH=$PATH:${HOME-}/.cargo/bin
    has cargo || err "Rust is missing. Get it from https://rustup.rs, and run this as the same user"
}

install_programs() {
    missing=
    program node_exporter >/dev/null || missing="$missing prometheus-node-exporter"
    program pushgateway >/dev/null || missing="$missing prometheus-pushgateway"
    has prometheus && has promtool || missing="$missing prometheus"
    has curl || missing="$missing curl"
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || packages_without_services $missing
}

# The path of a program under the distribution's name or upstream's.
program() {
    command -v "prometheus-$(echo "$1" | tr _ -)" || command -v "$1"
}

# Installs packages so that none of their services starts, now or at the next boot. Where systemd runs, a preset
# does that; elsewhere policy-rc.d, which must be gone afterwards.
packages_without_services() {
    lacking=
    for package in "$@"; do
        status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || :
        [ "$status" = installed ] || lacking="$lacking $package"
    done
    [ -n "$lacking" ] || return 0
    has apt-get || err "missing programs, and no apt-get to install them:$lacking"

    say "install from the distribution:$lacking"
    trap allow_services EXIT
    trap 'exit 130' INT TERM HUP
    if [ -d /run/systemd/system ]; then
        file=/run/systemd/system-preset/50-pgw-forwarder.preset text="disable *"
    else
        file=/usr/sbin/policy-rc.d text=$(printf '#!/bin/sh\n# pgw-forwarder\nexit 101')
    fi
    # A file of the administrator stays as it is. A killed run may have left one of this script.
    [ ! -e "$file" ] || [ "$(cat "$file")" = "$text" ] || file=
    [ -z "$file" ] || {
        as_root mkdir -p "${file%/*}"
        echo "$text" | as_root tee "$file" >/dev/null
        as_root chmod 755 "$file"
    }
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of names
    {
        # The known lists may do if they cannot be updated.
        as_root apt-get -q update || :
        as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
            apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends $lacking
    } >"$log" 2>&1 || err "apt-get could not install$lacking: $(cat "$log")"
    allow_services
    trap - EXIT INT TERM HUP
}

allow_services() {
    [ -z "${file-}" ] || as_root rm -f "$file"
    rm -f "${log-}"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
