#!/bin/sh
# Sets up pgw-forwarder. "install.sh --help" tells what it can do.
set -eu

main() {
    cd "$(dirname "$0")"
    # No call stands in a condition, where "set -e" would not hold in it.
    case "$#:${1-}" in
        1:--demo) demo ;;
        1:--packages) wrong ;;
        *:--packages)
            shift
            install_packages "$@"
            ;;
        1:-h | 1:--help) usage ;;
        *) wrong ;;
    esac
}

wrong() {
    usage >&2
    exit 2
}

usage() {
    cat <<'USAGE'
Usage: ./install.sh --demo
       ./install.sh --packages NAME...

  --demo            Show the whole pipeline on this machine: a real node_exporter, Pushgateway and
                    Prometheus on free ports of the loopback interface, and pgw-forwarder between
                    them. Installs what is missing of them from the distribution's packages, and
                    builds pgw-forwarder with cargo. Ctrl-C ends it and removes what it made, but
                    for the packages and the build.
  --packages NAME   Install packages of the distribution, without starting or enabling the services
                    that they bring along.
  -h, --help        Show this.

Run it as the user who has Rust: where it needs root, it uses sudo.
USAGE
}

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
    write_prometheus_config >"$directory/prometheus.yml"
    start prometheus "http://$prometheus/-/ready" "$(program prometheus)" \
        "--config.file=$directory/prometheus.yml" "--storage.tsdb.path=$directory/data" \
        "--web.listen-address=$prometheus"

    say "pushing once, as cron does every minute:"
    echo "EXPORTER_ADDR=$exporter PGW_ADDR=$gateway $forwarder -v"
    push -v
    show_answer "node_load1{job=\"node\",instance=\"$(uname -n)\"}"

    say "look for yourself; it pushes every 5 seconds until you press Ctrl-C"
    echo "node_exporter  http://$exporter/metrics"
    echo "Pushgateway    http://$gateway/"
    echo "Prometheus     http://$prometheus/graph?g0.expr=node_load1&g0.tab=0&g0.range_input=5m"
    while pause 5; do
        push || err "a push has failed, see above; the demo is over"
    done
}

write_prometheus_config() {
    cat <<CONFIG
scrape_configs:
  - job_name: pushgateway
    # The labels job and instance are the node's own, not the Pushgateway's.
    honor_labels: true
    scrape_interval: 2s
    static_configs:
      - targets: ['$gateway']
CONFIG
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
    "$@" >"$directory/$name.log" 2>&1 &
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
    while grep -qs ":$(printf %04X "$port") [0-9A-F]*:0000 0A " /proc/net/tcp /proc/net/tcp6; do
        port=$((port + 1))
    done
    echo "$port"
}

find_cargo() {
    PATH=$PATH:${HOME-}/.cargo/bin
    has cargo || err "Rust is missing; get it from https://rustup.rs, and run this as the same user"
}

# The name that a program has here: the distribution's, or upstream's.
program() {
    case $1 in
        prometheus) names=prometheus ;;
        *) names="prometheus-$(echo "$1" | tr _ -) $1" ;;
    esac
    for name in $names; do
        if has "$name"; then
            echo "$name"
            return
        fi
    done
    return 1
}

install_programs() {
    missing=
    program node_exporter >/dev/null || missing="$missing prometheus-node-exporter"
    program pushgateway >/dev/null || missing="$missing prometheus-pushgateway"
    has prometheus && has promtool || missing="$missing prometheus"
    has curl || missing="$missing curl"
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || install_packages $missing
}

# Installs packages so that no service of theirs starts, now or at the next boot: the one of
# prometheus-node-exporter would open port 9100 to everybody.
install_packages() {
    has apt-get || err "these are missing, and there is no apt-get to install them: $*"
    lacking=
    for package in "$@"; do
        is_installed "$package" || lacking="$lacking $package"
    done
    [ -n "$lacking" ] || return 0
    [ "$(id -u)" = 0 ] || has sudo || err "these packages are missing, and to install them takes root:$lacking"

    say "installing from the distribution:$lacking"
    log=$(mktemp)
    trap stop_forbidding EXIT
    trap 'exit 130' INT TERM HUP
    forbid_services
    # shellcheck disable=SC2086 # a list of names
    if ! { as_root apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
            apt-get -qy install --no-install-recommends $lacking; } >"$log" 2>&1; then
        err "apt-get could not install$lacking: $(cat "$log")"
    fi
    trap - EXIT INT TERM HUP
    stop_forbidding
}

policy=/usr/sbin/policy-rc.d
mark="# pgw-forwarder's install.sh: no service starts while it installs packages"

# Debian's way to say that a package may not start its service: this program's exit status.
forbid_services() {
    # One that an interrupted run of this script has left is not the administrator's.
    if [ -e "$policy" ] && ! grep -qsF "$mark" "$policy"; then
        as_root mv "$policy" "$policy.saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

stop_forbidding() {
    rm -f "$log"
    for package in $lacking; do
        ! is_installed "$package" || disable_services "$package"
    done
    as_root rm -f "$policy"
    [ ! -e "$policy.saved" ] || as_root mv "$policy.saved" "$policy"
}

# Services are enabled when they are installed, for the next boot, in systemd's way and init's.
disable_services() {
    for file in $(dpkg -L "$1"); do
        case $file in
            */lib/systemd/system/*.service | */lib/systemd/system/*.timer)
                ! has systemctl || as_root systemctl --quiet disable "${file##*/}" >/dev/null 2>&1
                ;;
            /etc/init.d/*) as_root update-rc.d "${file##*/}" disable >/dev/null ;;
        esac
    done
}

is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        has sudo || err "this needs root, and there is no sudo: $*"
        sudo "$@"
    fi
}

has() {
    command -v "$1" >/dev/null
}

say() {
    echo "==> $*"
}

err() {
    echo "install.sh: $*" >&2
    exit 1
}

# tests/bench.sh reads this file for its servers.
case $0 in
    *install.sh) main "$@" ;;
esac
