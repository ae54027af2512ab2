#!/bin/sh
# Makes this machine push its metrics: installs pgw-forwarder, node_exporter and the cron entry, in one
# command, and removes them again. "install.sh --help" lists the options.
set -eu

main() {
    # A plain "su" leaves out the directories of an administrator's tools.
    PATH=$PATH:/usr/sbin:/sbin
    umask 022
    read_options "$@"
    cd "$(dirname "$0")"
    case $action in
        install) join ;;
        uninstall) leave ;;
        run) run_once ;;
        list) list ;;
        demo) [ -f deploy/demo.sh ] || err "--demo needs a clone of the repository"; . deploy/demo.sh && demo ;;
    esac
}

usage() {
    cat <<'USAGE'
Usage: sudo sh install.sh --pgw-addr ADDR [OPTION...]
       sudo sh install.sh --run | --list | --uninstall [--name NAME]
       ./install.sh --demo

Makes this machine push its metrics to the Pushgateway at ADDR every minute. No port is opened. Rerunning
is safe, also after an interruption. An option that a rerun does not repeat has its default again.

  --pgw-addr ADDR         the Pushgateway: host:port, [v6]:port, or an http:// or https:// URL
  --pgw-job JOB           the label job of the metrics (node, or the NAME of --name)
  --pgw-instance NAME     the label instance (this host's name)
  --pgw-label NAME=VALUE  a further label of the grouping key; repeatable; no comma
  --pgw-user NAME, --pgw-password-file FILE  user and password for basic auth
  --pgw-token-file FILE   a bearer token
  --pgw-cacert FILE       trust the CAs in this file, not the system's
  --pgw-cert FILE, --pgw-key FILE  this node's own certificate, and its key
                          (cron's user gets copies of the files that no other user can read)
  --proxy URL             the HTTP proxy on the way to the gateway: http://proxy.example:3128

  --exporter-addr ADDR    where node_exporter listens (127.0.0.1:9014)
  --exporter-metric PATH  path of its metrics; a query selects some: 'metrics?collect[]=cpu'
  --exporter-bin FILE     this node_exporter instead of the distribution's
  --exporter-args ARGS    further arguments of node_exporter, as in a systemd unit; a rerun keeps them
  --socket                node_exporter listens on a Unix socket of cron's user, and on no TCP port
  --no-exporter           install no node_exporter: an exporter is at --exporter-addr already
  --name NAME             push one more exporter, the one at --exporter-addr, with its own cron entry

  --every MINUTES         run every 1 to 60 minutes (1)
  --splay SECONDS         spread the pushes of a fleet over this many seconds (30)
  --extra ARGS            further arguments of pgw-forwarder, as in a shell
  --user NAME             cron's user, who must exist (pgw-forwarder, who is added)
  --dry-run               print each step, and change nothing; with --run: push nothing

  --run                   run what cron runs, as cron's user, without the splay, and show what it does
  --list                  show what this machine pushes, and the last failure of each entry
  --uninstall             remove what was installed, and its metrics from the gateway
  --all                   with --uninstall: all entries
  --keep-metrics          with --uninstall: leave the metrics on the gateway
  --demo                  run node_exporter, Pushgateway, Prometheus and pgw-forwarder on the loopback
                          interface. Ctrl-C ends it, and removes all but the packages it needed

The install.sh of a release downloads the rest of it, from the https:// URL PGW_FORWARDER_MIRROR if that is set.
The exit status is that of the first push (see pgw-forwarder --help), 2 for a wrong option, or 1.
USAGE
}

# An option sets and exports the variable of its name. Some are variables of the cron file as well.
read_options() {
    action=install
    for variable in DRY_RUN NO_EXPORTER SOCKET ALL KEEP_METRICS NAME EXTRA EXPORTER_ADDR EXPORTER_METRIC EXPORTER_BIN \
        PGW_ADDR PGW_JOB PGW_INSTANCE PGW_LABELS PGW_USER PGW_PASSWORD_FILE PGW_TOKEN_FILE PGW_CACERT PGW_CERT PGW_KEY \
        PGW_METHOD PGW_REPORT_FAILURES PROXY; do
        export "$variable="
    done
    # A rerun keeps the arguments of --exporter-args.
    EXPORTER_ARGS=$(sed -n "s/^ExecStart=.*$last_argument *//p" "$unit" 2>/dev/null) || :
    export FORWARDER_SPLAY=30 EVERY=1 USER_NAME="$default_user"
    while [ $# -gt 0 ]; do
        option=$1 && shift
        case $option in
            -h | --help) usage && exit 0 ;;
            --demo | --run | --list | --uninstall) action=${option#--} && continue ;;
            --dry-run | --no-exporter | --socket | --all | --keep-metrics) value=yes ;;
            --*=*) value=${option#*=} option=${option%%=*} ;;
            *) [ $# -gt 0 ] || wrong "$option is not an option, or its value is missing"; value=$1 && shift ;;
        esac
        variable=$(printf %s "${option#--}" | tr '[:lower:]-' '[:upper:]_')
        case $option:$value in
            *"
"*) wrong "$option: a value has one line" ;;
            --extra:*--pgw-addr* | --extra:*--pgw-job* | --extra:*--pgw-instance* | --extra:*--pgw-label*)
                wrong "--extra: use install.sh's own option for the gateway or a label" ;;
            --exporter-args:* | --extra:?*) ;;
            # cron strips blanks and quotes there.
            "$option:" | "$option":[[:blank:]\"\']* | *[[:blank:]\"\'])
                wrong "$option: the value is empty, or a blank or quote is at an end" ;;
            --pgw-addr:*@* | --exporter-addr:*@*) wrong "$option: every user can read a password in an argument. Use --pgw-user" ;;
            --proxy:*@*) wrong "--proxy: every user can read a password in an argument. Set ALL_PROXY in the cron file" ;;
            --pgw-label:*,*) wrong "--pgw-label: a comma separates labels in the cron file" ;;
            --pgw-label:*) variable=PGW_LABELS value=${PGW_LABELS:+$PGW_LABELS,}$value ;;
            --splay:*) variable=FORWARDER_SPLAY ;;
            --user:*) [ "$(id -un -- "$value" 2>&1)" = "$value" ] || wrong "--user: $value does not exist"; variable=USER_NAME ;;
            --every:[1-9] | --every:[1-5][0-9] | --every:60) ;;
            --every:*) wrong "--every: give 1 to 60 minutes" ;;
            --exporter-bin:* | --pgw-password-file:* | --pgw-token-file:* | --pgw-cacert:* | --pgw-cert:* | --pgw-key:*)
                # A relative path starts where the user is.
                value=$(realpath -e -- "$value" 2>/dev/null) || wrong "$option: the file does not exist" ;;
            --name:*[!a-z0-9_-]*) wrong "--name: use small letters, digits, - and _" ;;
            --pgw-addr:* | --pgw-job:* | --pgw-instance:* | --pgw-user:* | --proxy:* | --exporter-addr:* | --name:*) ;;
            --exporter-metric:* | --dry-run:yes | --no-exporter:yes | --socket:yes | --all:yes | --keep-metrics:yes) ;;
            *) wrong "$option is not an option" ;;
        esac
        export "$variable=$value"
    done
    choose_entry "pgw-forwarder${NAME:+-$NAME}"
}

# The release that this script belongs to. deploy/release.sh fills in its address and the sum of each bundle.
version=0.1.0
release_url=''
sums=''
default_user=pgw-forwarder
# The last argument of node_exporter in the unit before those of --exporter-args.
last_argument=--web.disable-exporter-metrics
program=/usr/local/bin/pgw-forwarder
unit=/etc/systemd/system/exporter.service
socket_unit=/etc/systemd/system/exporter.socket
socket_file=/run/node-exporter/metrics.sock
preset=/run/systemd/system-preset/50-pgw-forwarder.preset
tmpfiles=/etc/tmpfiles.d/pgw-forwarder.conf
run_directory=/run/pgw-forwarder
# Lists what this script adds, each line before the addition. --uninstall removes that and no more.
state=/var/lib/pgw-forwarder
made=$state/made

# Each name has its own cron file and credentials.
choose_entry() {
    entry=$1 cron_file=/etc/cron.d/$1 access=/etc/$1
}

join() {
    prepare
    check_options
    find_program
    find_exporter
    refuse_what_is_not_ours
    make_crontab >"$settings"
    judge_settings
    refuse_another_key
    warn_about_others

    add_packages
    add_user "$USER_NAME"
    [ -n "$NO_EXPORTER" ] || add_exporter
    add_program
    add_run_directory
    # The settings name the copies from here on.
    add_credentials
    make_crontab >"$settings"
    [ -n "$DRY_RUN$NO_EXPORTER" ] || wait_for_exporter
    put_entry
    systemctl --quiet is-active cron.service || systemctl --quiet is-active crond.service ||
        step "start cron" systemctl --quiet enable --now cron.service
    [ -z "$DRY_RUN" ] || exit 0
    [ "$status" = 0 ] || warn "everything is installed, but the first push failed, see above. cron tries again"
    [ "$status" != 0 ] || say "done. This machine pushes its metrics. Its log: journalctl -t $entry"
    exit "$status"
}

leave() {
    prepare
    others=$(entries | grep -vx "$entry" | tr '\n' ' ') || :
    [ -n "$ALL$NAME" ] || [ -z "$others" ] || err "this machine also pushes ${others% }. Add --all, or --name NAME"
    for entry in $(if [ -n "$ALL" ]; then entries; else echo "$entry"; fi); do
        choose_entry "$entry"
        leave_entry
    done
    [ -z "$others" ] || [ -n "$ALL" ] || return 0
    remove_the_rest
}

# Removes one cron entry and its metrics. If the gateway does not delete them, nothing changes.
leave_entry() {
    is_ours "$cron_file" || { say "$entry is not installed" && return; }
    [ ! -f "$cron_file" ] || [ -n "$KEEP_METRICS" ] || step "delete the metrics of $entry" delete_group
    for file in "$cron_file" "$access"; do
        [ ! -e "$file" ] || step "remove $file" rm -r "$file"
    done
}

delete_group() {
    cp "$cron_file" "$settings"
    as_cron_when_free --delete
    [ "$status" = 0 ] ||
        { warn "nothing was removed. Repeat this when the gateway can be reached, or add --keep-metrics" && exit "$status"; }
    rm "$cron_file"
    # cron may have started a run meanwhile, which brought them back.
    as_cron_when_free --delete
    [ "$status" = 0 ] || warn "a last push by cron may have brought the metrics back, see above"
}

remove_the_rest() {
    for file in "$socket_unit" "$unit"; do
        ! is_ours "$file" || [ ! -f "$file" ] || step "stop ${file##*/}" stop_unit "$file"
    done
    for file in $(made_of file); do
        [ ! -e "$file" ] || step "remove $file" rm -r "$file"
        # An interrupted run may have left this.
        [ -n "$DRY_RUN" ] || rm -f "$(new_of "$file")"
    done
    for name in $(made_of user); do
        # One of its runs may go on for some seconds.
        ! id "$name" >/dev/null 2>&1 || step "remove the user $name" userdel --force "$name"
    done
    packages=$(made_of package | tr '\n' ' ')
    [ -z "$packages" ] || say "installed packages stay. If nothing else needs them: apt-get purge $packages"
    [ -n "$DRY_RUN" ] || rm -rf "$state"
}

stop_unit() {
    systemctl --quiet disable --now "${1##*/}"
    rm "$1"
    systemctl daemon-reload
    systemctl --quiet reset-failed "${1##*/}" 2>/dev/null || :
}

run_once() {
    prepare
    [ -f "$cron_file" ] || err "$cron_file does not exist. Install it first, see --help"
    settings=$cron_file
    as_cron_when_free -v ${DRY_RUN:+--dry-run}
    exit "$status"
}

list() {
    prepare
    [ -n "$(entries)" ] || say "this machine pushes nothing"
    for entry in $(entries); do
        failure=$(journalctl --quiet --reverse --output=short-iso --identifier="$entry" |
            sed -n 's/^\([^ ]*\) .*(\(exit status [0-9]\))$/last failure \1, \2/p' | head -n 1)
        choose_entry "$entry"
        printf '%s: job %s, exporter %s, gateway %s, %s\n' "$entry" "$(value_of PGW_JOB "$cron_file")" \
            "$(value_of EXPORTER_ADDR "$cron_file")" "$(value_of PGW_ADDR "$cron_file" | sed 's|[^/,]*@||g')" \
            "${failure:-no failure in the log}"
    done
}

entries() {
    for file in $(made_of file | grep "^/etc/cron.d/"); do
        [ ! -f "$file" ] || echo "${file##*/}"
    done
}

prepare() {
    [ "$(id -u)" = 0 ] || err "this needs root. Run it with sudo"
    [ -d /run/systemd/system ] ||
        err "this machine does not run systemd, which starts node_exporter here. Nothing was changed"
    trap 'rm -rf "$temporary"' EXIT
    trap 'exit 130' INT TERM HUP
    temporary=$(mktemp -d) settings=$temporary/crontab compression='' proven=''
}

check_options() {
    [ -n "$PGW_ADDR" ] || wrong "--pgw-addr is missing. Give the address of the Pushgateway"
    if [ -n "$NAME" ]; then
        [ -n "$EXPORTER_ADDR" ] || wrong "--name: --exporter-addr is missing. Give the address of that exporter"
        NO_EXPORTER=yes PGW_JOB=${PGW_JOB:-$NAME}
    fi
    [ -z "$SOCKET" ] || [ -z "$NO_EXPORTER$EXPORTER_ADDR" ] || wrong "--socket: leave out the address of the exporter"
    EXPORTER_ADDR=${EXPORTER_ADDR:-127.0.0.1:9014} listener=--web.listen-address=$EXPORTER_ADDR
    [ -z "$SOCKET" ] || EXPORTER_ADDR=unix:$socket_file listener=--web.systemd-socket
    case $NO_EXPORTER$SOCKET$EXPORTER_ADDR in
        yes* | 127.*:[1-9]* | localhost:[1-9]* | '[::1]':[1-9]*) ;;
        *) wrong "--exporter-addr: node_exporter must listen for this machine only. Give 127.0.0.1:port" ;;
    esac
    ! is_ours "$access" || [ ! -e "$access" ] || [ -n "$PGW_CACERT$PGW_PASSWORD_FILE$PGW_TOKEN_FILE$PGW_CERT" ] ||
        wrong "this node has credentials in $access. Name those files again, or uninstall first"
    # cron starts over with each hour. A run takes at most 22 s, the sum of its time limits, and the splay.
    most=$(((60 % EVERY == 0 ? EVERY : 60 % EVERY) * 60 - 27))
    [ "$FORWARDER_SPLAY" -le "$most" ] 2>/dev/null || wrong "--splay: give at most $most seconds, so that a run \
ends before the next one starts"
}

# In this order: a package, a download, a bundle, a clone, which the user who called sudo builds. The install.sh of a
# release trusts no file beside it, since it may lie in /tmp.
find_program() {
    [ "$PWD" != /usr/share/pgw-forwarder ] || { program=/usr/bin/pgw-forwarder binary=$program && return; }
    [ -z "$sums" ] || download_bundle
    binary=$PWD/pgw-forwarder
    [ ! -f "$binary" ] || return 0
    [ -f Cargo.toml ] || err "only the install.sh of a release works without its other files. Nothing was changed"
    binary=$PWD/target/release/pgw-forwarder
    step "build pgw-forwarder" runuser -l "${SUDO_USER:-root}" -c \
        "cd '$PWD' && cargo build --quiet --locked --release --target-dir target" ||
        err "cannot build pgw-forwarder. Get Rust from https://rustup.rs, or use a release bundle"
}

# Downloads the bundle for this processor (armv7 if it is armv7l), and goes on in it. This script has its sum.
download_bundle() {
    machine=$(uname -m)
    line=$(echo "$sums" | grep -m 1 "^${machine%l}") || err "this release has no program for the processor $machine, \
only for$(echo "$sums" | sed -n 's/\(.*\) .*/ \1/p' | tr -d '\n'). Build it in a clone. Nothing was changed"
    bundle=pgw-forwarder-$version-${line% *}
    url=${PGW_FORWARDER_MIRROR:-$release_url}/$bundle.tar.gz file=$temporary/$bundle.tar.gz
    case $url in
        *@*) err "PGW_FORWARDER_MIRROR: use a URL without a password. Nothing was changed" ;;
        https://* | http://127.0.0.1:[0-9]*) ;;
        *) err "no https:// address of $bundle.tar.gz. Set PGW_FORWARDER_MIRROR. Nothing was changed" ;;
    esac
    say "download $url"
    if has curl; then
        set -- curl --fail --silent --show-error --globoff --location --proto-redir =https --output "$file" "$url"
    elif has wget; then
        # wget cannot refuse a redirect to http. So http gets a proxy that does not exist.
        set -- wget -nv -t 1 -e http_proxy=http://none.invalid -e "no_proxy=${no_proxy-},127.0.0.1" -O "$file" "$url"
    else
        # apt's user _apt could not write the file.
        set -- /usr/lib/apt/apt-helper -qq -o APT::Sandbox::User=root download-file "$url" "$file"
    fi
    error=$(timeout --foreground 300 "$@" 2>&1) || err "cannot download $url: \
$(printf '%s\n' "${error:-the connection ended, or 300 s were over}" | sed 's/\.$//' | paste -s -d ' '). \
Check the address, the network and the proxy, and that curl and ca-certificates are installed. Nothing was changed"
    echo "${line#* }  $file" | sha256sum --check --status ||
        err "$url is not the bundle of this release: its SHA-256 sum is wrong. Nothing was changed"
    tar -xzf "$file" --no-same-owner -C "$temporary"
    cd "$temporary/$bundle"
}

find_exporter() {
    exporter=
    [ -z "$NO_EXPORTER" ] || return 0
    exporter=${EXPORTER_BIN:-$(command -v prometheus-node-exporter || command -v node_exporter || :)}
    case $exporter in
        /tmp/* | /var/tmp/* | *[!A-Za-z0-9/._+-]*)
            wrong "--exporter-bin: systemd cannot run $exporter. Give a path outside /tmp, without blanks" ;;
    esac
    [ -z "$exporter" ] || runuser -u nobody -- test -x "$exporter" || wrong "--exporter-bin: other users \
cannot execute $exporter. Check its mode, and those of the directories above it"
    [ -n "$SOCKET" ] || return 0
    if [ -n "$exporter" ]; then
        "$exporter" --help 2>&1 | grep -q -e --web.systemd-socket
    else
        candidate=$(apt-cache policy prometheus-node-exporter 2>/dev/null | sed -n 's/.*Candidate: //p')
        [ -z "$candidate" ] || dpkg --compare-versions "$candidate" ge 1.5
    fi || err "--socket: this node_exporter is too old. It needs version 1.5. Nothing was changed"
}

refuse_what_is_not_ours() {
    set -- "$cron_file" "$access" "$tmpfiles"
    [ -n "$NO_EXPORTER" ] || set -- "$@" "$unit" "$socket_unit"
    for file in "$@"; do
        [ ! -e "$file" ] || is_ours "$file" ||
            err "$file exists, and is not from this script. Move it away. Nothing was changed"
    done
}

# Lets the program itself judge its settings.
judge_settings() {
    [ -f "$binary" ] || return 0 # A dry run does not build.
    status=0
    error=$(with_settings sh -c "\"\$0\" --dry-run $EXTRA" "$binary" 2>&1 >/dev/null) || status=$?
    error=${error#pgw-forwarder: error: } error=${error%. (exit status 2)}
    case $status:$NO_EXPORTER$SOCKET:$error in
        2:*) wrong "${error%%. See --help*}" ;;
        126:*) err "cannot execute $binary. Check its mode, and whether its file system is noexec. Nothing was changed" ;;
        4::*refused*) ;;
        [045]::*) grep -qsz "^--web.listen-address=.*:${EXPORTER_ADDR##*:}$" \
            "/proc/$(systemctl show --value --property=MainPID exporter.service)/cmdline" ||
            err "another program listens on $EXPORTER_ADDR. See ss -ltnp. Nothing was changed" ;;
    esac
}

# Metrics of a former key would stay on the gateway for ever. Entries with one key would replace each other's.
refuse_another_key() {
    new=$(key "$settings")
    for other in $(entries); do
        old=$(key "/etc/cron.d/$other")
        case $other:$old in
            "$entry:$new") ;;
            *:"$new") wrong "$other pushes to the same group. Give another --pgw-job" ;;
            "$entry":*) wrong "this machine already pushes as$old, and not as$new. Run this first: install.sh \
--uninstall${NAME:+ --name $NAME}. If the former gateway is gone, or was a mistake, add --keep-metrics" ;;
        esac
        [ "$other" = "$entry" ] || grep -q "^[^#].* $USER_NAME /[^ ]*/pgw-forwarder" "/etc/cron.d/$other" ||
            wrong "--user: all entries share a directory for their lock files. Give the user of $other"
    done
}

# Where the pushes of the cron file $1 go.
key() {
    sed -n 's/^PGW_\(ADDR\|JOB\|INSTANCE\|LABELS\)=/ &/p' "$1" | tr -d '\n'
}

# The value of $1 in the cron file $2.
value_of() {
    sed -n "s/^$1=//p" "$2"
}

# The text of entries is not shown, since it may have passwords in it.
warn_about_others() {
    for file in /etc/crontab /etc/cron.d/* /var/spool/cron/* /var/spool/cron/crontabs/*; do
        for line in $(is_ours "$file" || grep -nE '^[^#].*(/metrics/job/|pgw-forwarder)' "$file" 2>/dev/null | cut -d: -f1); do
            warn "line $line of $file may push the same metrics. If it does, remove it"
        done
    done
    for service in prometheus-node-exporter node_exporter; do
        ! systemctl --quiet is-active "$service.service" || warn "$service.service was here before, and stays. \
If its port is open (ss -ltn), close it: systemctl disable --now $service.service"
    done
}

add_packages() {
    packages=
    has cron || has crond || packages=cron
    [ -n "$NO_EXPORTER$exporter" ] || packages="$packages prometheus-node-exporter"
    # An interrupted installation may have left a program that is not usable yet, and the preset.
    for package in cron prometheus-node-exporter; do
        [ -z "$(dpkg --audit "$package" 2>/dev/null)" ] || packages="$packages $package"
    done
    [ -n "$DRY_RUN" ] || trap 'rm -rf "$temporary" "$preset"' EXIT
    [ -z "$packages" ] || step "install the packages ${packages# }" install_packages
}

install_packages() {
    # The service of node_exporter's package would open port 9100 to every machine.
    echo "disable prometheus-node-exporter.service" | install -D -m 644 /dev/stdin "$preset"
    log=$temporary/log
    # shellcheck disable=SC2086 # a list of names
    {
        # The known lists may do if they cannot be updated.
        apt-get -q update || :
        dpkg --configure -a
        set -- -qy -o DPkg::Lock::Timeout=300 --no-install-recommends install $packages
        for new in $(apt-get -s "$@" | sed -n 's/^Inst \([^ ]*\).*/\1/p'); do
            remember "package $new"
        done
        DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get "$@"
    } >"$log" 2>&1 || err "apt-get could not install $packages: $(cat "$log")"
}

add_user() {
    ! id "$1" >/dev/null 2>&1 || return 0
    remember "user $1"
    step "add the user $1" systemd-sysusers --inline "$(grep "^u $1 " deploy/node/sysusers.conf)"
}

add_exporter() {
    exporter=${exporter:-/usr/bin/prometheus-node-exporter}
    add_user node-exporter
    if [ -n "$SOCKET" ]; then
        set -- exporter.socket exporter.service
        remember_file "${socket_file%/*}"
        put 644 "$socket_unit" "$(sed "s/=$default_user$/=$USER_NAME/" deploy/node/exporter.socket)"
    else
        set -- exporter.service
        ! is_ours "$socket_unit" || [ ! -f "$socket_unit" ] || step "remove exporter.socket" stop_unit "$socket_unit"
    fi
    put 644 "$unit" "$(COMMAND="$exporter $listener $last_argument${EXPORTER_ARGS:+ $EXPORTER_ARGS}" awk '
        /^ExecStart=/ { $0 = "ExecStart=" ENVIRON["COMMAND"] }
        { print }' deploy/node/exporter.service)"
    # An interrupted run may have changed a unit, too.
    if ! systemctl --quiet is-active "$1" || systemctl show --property=NeedDaemonReload "$@" | grep -q =yes; then
        step "start $*" start_units "$@"
    fi
}

start_units() {
    # A socket cannot start while its service runs. A new service does not exist yet.
    systemctl --quiet stop exporter.service 2>/dev/null || :
    systemctl daemon-reload
    systemctl --quiet enable "$@"
    systemctl --quiet restart "$@"
}

add_program() {
    ! cmp -s "$binary" "$program" || return 0
    remember_file "$program"
    step "install $program" install_file 755 "$binary" "$program"
}

# install_file MODE FROM TO: in one move, from outside the directory that cron watches.
install_file() {
    install -D -m "$1" "$2" "$(new_of "$3")"
    mv "$(new_of "$3")" "$3"
}

new_of() { echo "${1%/*/*}/${1##*/}.new"; }

# The directory of the lock files, now and after each boot.
add_run_directory() {
    remember_file "$run_directory"
    put 644 "$tmpfiles" "d $run_directory 0755 $USER_NAME $(id -gn "$USER_NAME" 2>/dev/null || :) -"
    [ "$(stat -c %a:%U "$run_directory" 2>&1)" = "755:$USER_NAME" ] ||
        step "make $run_directory" systemd-tmpfiles --create "$tmpfiles"
    # Another user cannot use the lock files of a former one.
    [ -n "$DRY_RUN" ] || find "$run_directory" -type f ! -user "$USER_NAME" -delete
}

# Gives cron's user copies that no other user can read.
add_credentials() {
    copies=$temporary/access
    mkdir -m 755 "$copies"
    for name in cacert password_file token_file cert key; do
        variable=PGW_$(echo "$name" | tr '[:lower:]' '[:upper:]')
        file=$(printenv "$variable") || :
        [ -z "$file" ] || install -m 400 "$file" "$copies/${name%_file}"
        export "$variable=${file:+$access/${name%_file}}"
    done
    if [ -n "$PGW_CACERT$PGW_PASSWORD_FILE$PGW_TOKEN_FILE$PGW_CERT" ]; then
        remember_file "$access"
        [ -z "$(diff -r "$copies" "$access" 2>&1; find "$access"/* ! -user "$USER_NAME" -o ! -perm 400 2>&1)" ] ||
            step "write $access" write_access
    fi
}

write_access() {
    chown "$USER_NAME" "$copies"/*
    rm -rf "$access"
    cp -a "$copies" "$access"
}

# crontab.example with the values of this entry, and the compression that has worked.
make_crontab() {
    PGW_COMPRESSION=$proven ALL_PROXY=$PROXY COMMAND="*/$EVERY * * * * $USER_NAME $program${EXTRA:+ $EXTRA}" ENTRY=$entry awk '
        /^#?[A-Z_]+=/ {
            name = $0
            gsub(/^#|=.*/, "", name)
            if (ENVIRON[name] != "") $0 = name "=" ENVIRON[name]
        }
        /^\*/ {
            # A newer cron warns about */60.
            sub(/^\*\/60 /, "0 ", ENVIRON["COMMAND"])
            gsub(/%/, "\\%", ENVIRON["COMMAND"])
            $0 = ENVIRON["COMMAND"] " 2>&1 | logger -t " ENVIRON["ENTRY"]
        }
        { print }' crontab.example
}

# Writes the cron file, and pushes as cron will: with gzip and, if a gateway refuses that as those before 1.5.0
# do, without. Keeps what works, or worked before. Sets $status.
put_entry() {
    proven=$(value_of PGW_COMPRESSION "$cron_file" 2>/dev/null) || :
    # Before the push, since --uninstall deletes the metrics of this file.
    put 600 "$cron_file" "$(make_crontab)"
    [ -z "$DRY_RUN" ] || return 0
    say "push, as cron will"
    for compression in gzip none; do
        as_cron_when_free
        [ "$status:$compression" = 7:gzip ] || break
        say "push without gzip"
    done
    # Two changes in one second look like one to cron.
    [ "$status" != 0 ] || [ "$proven" = "$compression" ] || { proven=$compression && sleep 1; }
    put 600 "$cron_file" "$(make_crontab)"
}

wait_for_exporter() {
    tries=50
    until status=0 && error=$(as_cron --dry-run 2>&1 >/dev/null) || status=$?; [ "$status" = 0 ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || err "exporter.service does not work: $error See journalctl -u exporter"
        sleep 0.2
    done
}

# as_cron ARG...: runs the command of the cron file $settings as cron does, with more arguments and no splay.
as_cron() {
    command=$(sed -n '/^[^#].* 2>&1 | logger /{ s/^\([^ ]* \)\{5\}//; s/ 2>&1 | logger .*//; s/\\%/%/g; p; q; }' "$settings")
    with_settings FORWARDER_SPLAY=0 ${compression:+"PGW_COMPRESSION=$compression"} \
        "$(command -v runuser)" -u "${command%% *}" -- sh -c "${command#* } $*"
}

# as_cron_when_free ARG...: as_cron, when no run of cron holds the lock any more. Sets $status and $error.
as_cron_when_free() {
    tries=120
    while status=0 && error=$(as_cron "$@" 2>&1 >&3) || status=$?; [ "$status" = 3 ] && [ "$tries" -gt 0 ]; do
        [ "$tries" -lt 120 ] || say "wait for cron's own run"
        tries=$((tries - 1))
        sleep 1
    done
    [ -z "$error" ] || printf '%s\n' "$error" >&2
} 3>&1

# with_settings COMMAND...: runs it with the variables of the cron file $settings, and no others.
with_settings() {
    while IFS= read -r line; do
        case $line in
            [A-Za-z_]*=*) set -- "$line" "$@" ;;
        esac
    done <"$settings"
    env -i PATH=/usr/bin:/bin "$@"
}

# put MODE FILE TEXT: writes a file of root's, unless it is like that already.
put() {
    printf '%s\n' "$3" >"$temporary/new"
    cmp -s "$temporary/new" "$2" && [ "$(stat -c %a:%u:%g "$2")" = "$1:0:0" ] && return
    remember_file "$2"
    step "write $2" install_file "$1" "$temporary/new" "$2"
}

remember() {
    [ -n "$DRY_RUN" ] || grep -qsxF "$1" "$made" || {
        mkdir -p "$state"
        printf '%s\n' "$1" >>"$made"
    }
}

# A file that exists already is not this script's to remove.
remember_file() {
    [ -e "$1" ] || remember "file $1"
}

# What was added of the kind $1.
made_of() {
    [ ! -f "$made" ] || sed -n "s/^$1 //p" "$made"
}

is_ours() { made_of file | grep -qxF "$1"; }

has() { command -v "$1" >/dev/null; }

# step TEXT COMMAND...: says what is done, and does it, unless this is a dry run.
step() {
    say "$1"
    shift
    [ -n "$DRY_RUN" ] || "$@"
}

say() {
    printf '==> %s\n' "$*"
}

warn() {
    printf '%s: warning: %s\n' "${0##*/}" "$*" >&2
}

wrong() {
    printf '%s: %s. See --help\n' "${0##*/}" "$*" >&2
    exit 2
}

err() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Other scripts read this file for some of its functions.
[ -n "${only_verbs-}" ] || main "$@"
