#!/bin/sh
# Puts a node under watch: pgw-forwarder, node_exporter and the cron entry, in one command; and
# takes it out again. "install.sh --help" tells how.
set -eu

main() {
    # A plain "su" leaves out where the tools of an administrator are.
    PATH=$PATH:/usr/sbin:/sbin
    read_options "$@"
    cd "$(dirname "$0")"
    # shellcheck disable=SC2086 # the packages are a list of names
    case $action in
        install) join ;;
        uninstall) leave ;;
        run) run_once ;;
        demo)
            [ -f deploy/demo.sh ] || err "--demo: the demo is part of a checkout only"
            . deploy/demo.sh && demo
            ;;
        packages) install_packages $packages ;;
    esac
}

usage() {
    cat <<'USAGE'
Usage: sudo ./install.sh --pgw-addr ADDR [OPTION...]
       sudo ./install.sh --run
       sudo ./install.sh --uninstall [--keep-metrics] [--purge]
       ./install.sh --demo

Puts this node under watch: its metrics are pushed to the Pushgateway at ADDR every minute, and no
port of it is open. Run it again, also after an interruption, and the same is the result.

  --pgw-addr ADDR        the Pushgateway: host:port, [v6]:port, or an http:// or https:// URL
  --pgw-job JOB          the label job of the node's metrics (node)
  --pgw-instance NAME    the label instance (this host's name)
  --pgw-label NAME=VALUE a further label of the grouping key; repeatable; no comma
  --pgw-user NAME        for basic auth; the password is asked for, unless the variable PGW_PASSWORD
                         has it, or the next option
  --pgw-password-file FILE  has the password
  --pgw-token-file FILE  has a bearer token; so may the variable PGW_TOKEN
  --pgw-cacert FILE      the authority of the gateway's certificate, where it is not the system's
  --pgw-cert FILE, --pgw-key FILE  this node's own certificate, and its key
                         (all of these are copied to where only cron's user can read them)
  --exporter-addr ADDR   where node_exporter listens (127.0.0.1:9014)
  --exporter-metric PATH  the path of its metrics, which may select some: 'metrics?collect[]=cpu'
  --compression none|gzip  compress pushes or not (gzip, if the first push shows that it works)
  --schedule 'M H D M W' when cron runs it ('*/1 * * * *')
  --splay SECONDS        spread the fleet's pushes over this many seconds after that (30, or what the
                         time limits of a run leave until the next)
  --extra 'ARG...'       further arguments for pgw-forwarder, as in a shell
  --prefix DIR           the program goes into DIR/bin (/usr/local)
  --user NAME            cron runs it as this user, who is made if missing (pgw-forwarder)
  --no-exporter          an exporter is at --exporter-addr already: install none
  --exporter-bin FILE    use this node_exporter, not the distribution's
  --dry-run              print each step, and do none
  --run                  run what cron runs, as cron's user, without the splay; and show what it does
  --uninstall            take the node out again, and its metrics from the gateway
  --keep-metrics         with --uninstall: leave the metrics on the gateway
  --purge                with --uninstall: remove the packages too that this script installed
  --demo                 show the whole pipeline on this machine: a real node_exporter, Pushgateway
                         and Prometheus on free ports of the loopback interface, and pgw-forwarder
                         between them. Installs what is missing of them from the distribution's
                         packages. Ctrl-C ends it and removes what it made, but for the packages
  --packages NAME...     install packages of the distribution, without starting or enabling the
                         services that they bring along
  -h, --help             show this

The exit status is that of the first push (see pgw-forwarder --help), 2 for a wrong option, or 1.
USAGE
}

read_options() {
    action=install dry_run='' no_exporter='' keep_metrics='' purge=''
    pgw_addr='' pgw_job='' pgw_instance='' pgw_labels='' compression='' splay='' extra=''
    pgw_user='' pgw_password_file='' pgw_token_file='' pgw_cacert='' pgw_cert='' pgw_key=''
    exporter_addr=127.0.0.1:9014 exporter_metric='' exporter_bin='' schedule='*/1 * * * *'
    prefix=/usr/local user=pgw-forwarder
    while [ $# -gt 0 ]; do
        option=$1
        shift
        case $option in
            -h | --help) usage && exit 0 ;;
            --demo | --run | --uninstall) action=${option#--} && continue ;;
            --packages)
                [ $# -gt 0 ] || wrong "--packages: which?"
                action=packages packages=$*
                break
                ;;
            --dry-run) dry_run=yes && continue ;;
            --no-exporter) no_exporter=yes && continue ;;
            --keep-metrics) keep_metrics=yes && continue ;;
            --purge) purge=yes && continue ;;
            --*=*) value=${option#*=} option=${option%%=*} ;;
            *)
                [ $# -gt 0 ] || wrong "$option is no option, or its value is missing"
                value=$1
                shift
                ;;
        esac
        case $value in
            *"$newline"*) wrong "$option: a value has one line" ;;
        esac
        case $option in
            --pgw-addr) pgw_addr=$value ;;
            --pgw-job) pgw_job=$value ;;
            --pgw-instance) pgw_instance=$value ;;
            --pgw-label)
                case $value in *,*) wrong "--pgw-label: a comma separates labels in the cron file" ;; esac
                pgw_labels=${pgw_labels:+$pgw_labels,}$value
                ;;
            --pgw-user) pgw_user=$value ;;
            --pgw-password-file) pgw_password_file=$(absolute "$value") ;;
            --pgw-token-file) pgw_token_file=$(absolute "$value") ;;
            --pgw-cacert) pgw_cacert=$(absolute "$value") ;;
            --pgw-cert) pgw_cert=$(absolute "$value") ;;
            --pgw-key) pgw_key=$(absolute "$value") ;;
            --exporter-addr) exporter_addr=$value ;;
            --exporter-metric) exporter_metric=$value ;;
            --compression) compression=$value ;;
            --schedule) schedule=$value ;;
            --splay) splay=$value ;;
            --extra) extra=$value ;;
            --prefix) prefix=${value%/} ;;
            --user) user=$value ;;
            --exporter-bin) exporter_bin=$(absolute "$value") ;;
            *) wrong "$option is no option" ;;
        esac
        [ -n "$value" ] || wrong "$option: its value is empty"
    done
    case $action$dry_run in
        demoyes | packagesyes | runyes) wrong "--dry-run goes with installing and uninstalling only" ;;
    esac
}

# What an option names has to be there, and is meant from where the user stands.
absolute() {
    realpath -e -- "$1" 2>/dev/null || wrong "$option: $1 is not there"
}

cron_file=/etc/cron.d/pgw-forwarder
unit_file=/etc/systemd/system/exporter.service
tmpfiles=/etc/tmpfiles.d/pgw-forwarder.conf
run_directory=/run/pgw-forwarder
access=/etc/pgw-forwarder
# What cron's user alone can read, in the order of PGW_CACERT, PASSWORD_FILE, TOKEN_FILE, CERT, KEY.
access_files="$access/ca.crt $access/password $access/token $access/client.crt $access/client.key"
state=/var/lib/pgw-forwarder
# What uninstalling has to know: the files, users and packages that this script has added.
made=$state/made
# The cron file of a node that is being taken out, until its group is deleted.
leaving=$state/leaving
# The same of one whose pushes go elsewhere now, with what it reads, until a push has come through there.
former=$state/former

# Puts this node under watch.
join() {
    [ -n "$pgw_addr" ] || wrong "--pgw-addr is missing: where is the Pushgateway?"
    need_root_and_systemd
    ask_password
    find_binary
    check_options
    find_exporter
    refuse_what_is_not_ours
    warn_about_open_exporters
    warn_about_other_entries
    ! is_interrupted || step "finish an interrupted installation of packages" finish_packages

    add_package_if_missing cron cron crond
    if [ -n "$no_exporter" ]; then
        remove_unit
    else
        add_exporter
        put_unit
    fi
    add_user "$user"
    put_binary
    make_run_directory
    put_crontab
    start_cron

    [ -n "$dry_run" ] || prove
}

# Takes it out again; what is not there, or was there before, is not removed.
leave() {
    need_root_and_systemd
    [ -d "$state" ] || say "nothing is here that this script has made"
    if is_interrupted; then
        lacking=$(made_of package)
        step "let services start again" stop_forbidding
    fi
    if is_ours "$cron_file" && [ -f "$cron_file" ]; then
        # First: no run may begin that would bring the group back.
        step "remove $cron_file" mv "$cron_file" "$leaving"
    fi
    [ -z "$(runs)" ] || step "end its runs" end_runs
    remove_unit
    if [ -f "$leaving" ] || { [ -n "$dry_run" ] && is_ours "$cron_file"; }; then
        [ -n "$keep_metrics" ] || step "delete this node's metrics from the gateway" delete_groups
        [ -n "$dry_run" ] || rm -f "$leaving"
    fi

    if is_ours "$tmpfiles" && [ -d "$run_directory" ]; then
        step "remove $run_directory" rm -rf "$run_directory"
    fi
    for file in $(made_of file); do
        # One that was interrupted while it was written has this name.
        [ -n "$dry_run" ] || rm -f "$file.new"
        [ ! -e "$file" ] || step "remove $file" rm -f "$file"
    done
    [ -n "$dry_run" ] || rmdir "$access" 2>/dev/null || :
    for name in $(made_of user); do
        ! id "$name" >/dev/null 2>&1 || step "remove the user $name" remove_user "$name"
    done
    packages=$(made_of package | tr '\n' ' ')
    if [ -n "$packages" ]; then
        if [ -n "$purge" ]; then
            # shellcheck disable=SC2086 # a list of names
            step "remove the packages $packages" remove_packages $packages
        else
            say "these packages were installed for it, and stay; if nothing else needs them, purge them: $packages"
        fi
    fi
    [ ! -d "$state" ] || step "remove $state" rm -rf "$state"
}

# Runs what cron runs, and ends with its status.
run_once() {
    [ "$(id -u)" = 0 ] || err "--run needs root, to become cron's user. Run: sudo $0 --run"
    [ -f "$cron_file" ] || err "$cron_file is missing. Run install.sh with --pgw-addr first"
    settings=$cron_file status=0
    as_cron -v || status=$?
    exit "$status"
}

remove_unit() {
    is_ours "$unit_file" && [ -f "$unit_file" ] || return 0
    step "stop and disable exporter.service" systemctl --quiet disable --now exporter.service
    step "remove $unit_file" rm -f "$unit_file"
    step "reload systemd" systemctl daemon-reload
    systemctl --quiet reset-failed exporter.service 2>/dev/null || :
}

# The PIDs of the runs of the installed program.
runs() {
    for process in /proc/[0-9]*; do
        target=$(readlink "$process/exe") || continue
        ! is_ours "${target% (deleted)}" || printf '%s\n' "${process#/proc/}"
    done
}

end_runs() {
    # shellcheck disable=SC2046 # a list of PIDs
    kill $(runs) 2>/dev/null || :
    while [ -n "$(runs)" ]; do
        sleep 0.1
    done
}

# Whether this script has made a file.
is_ours() {
    made_of file | grep -qxF "$1"
}

refuse_what_is_not_ours() {
    for file in "$cron_file" "$tmpfiles" "$unit_file" $access_files; do
        [ ! -e "$file" ] || is_ours "$file" || [ "$no_exporter:$file" = "yes:$unit_file" ] ||
            err "$file is there, but not from this script: move it away; nothing was changed"
    done
    for name in "$user" node-exporter; do
        id "$name" >/dev/null 2>&1 || made_of user | grep -qx "$name" || ! getent group "$name" >/dev/null ||
            err "there is a group $name, but no user of that name; nothing was changed"
    done
}

need_root_and_systemd() {
    [ "$(id -u)" = 0 ] || err "this has to be run as root: sudo $0 ..."
    [ -d /run/systemd/system ] ||
        err "this machine does not run systemd, which starts node_exporter here; nothing was changed"
}

# Release bundles have the program beside this script; a checkout builds it, as the user who has
# Rust.
find_binary() {
    binary=$PWD/pgw-forwarder
    [ ! -x "$binary" ] || return 0
    binary=${CARGO_TARGET_DIR:-$PWD/target}/release/pgw-forwarder
    builder=${SUDO_USER:-root}
    home=$(getent passwd "$builder" | cut -d: -f6)
    cargo=$home/.cargo/bin/cargo
    [ -x "$cargo" ] || cargo=$(command -v cargo) || err "there is neither a program pgw-forwarder beside this script, \
nor cargo to build it: get Rust from https://rustup.rs, and run this again"
    step "build pgw-forwarder" \
        runuser -u "$builder" -- env "HOME=$home" "$cargo" build --quiet --locked --release
}

# A secret is never an argument, which everybody on this host could read.
ask_password() {
    password=${PGW_PASSWORD-} token=${PGW_TOKEN-}
    unset PGW_PASSWORD PGW_TOKEN
    [ -n "$pgw_user" ] || [ -z "$password" ] || wrong "PGW_PASSWORD: --pgw-user is missing"
    [ -z "$pgw_password_file" ] || [ -z "$password" ] || wrong "--pgw-password-file: there is PGW_PASSWORD, too"
    [ -z "$pgw_token_file" ] || [ -z "$token" ] || wrong "--pgw-token-file: there is PGW_TOKEN, too"
    [ -n "$pgw_user" ] && [ -z "$pgw_password_file$password$dry_run" ] || return 0
    [ -t 0 ] || wrong "--pgw-user: give its password by --pgw-password-file, or in PGW_PASSWORD"
    trap 'stty echo; exit 130' INT TERM HUP QUIT
    stty -echo
    printf 'The password of %s at the gateway: ' "$pgw_user" >&2
    IFS= read -r password || :
    stty echo
    trap - INT TERM HUP QUIT
    echo >&2
    [ -n "$password" ] || wrong "--pgw-user: the password is empty"
}

# Lets the program itself judge what it will be given, before anything is changed.
check_options() {
    case $prefix in
        *[!A-Za-z0-9._/-]* | [!/]*) wrong "--prefix: $prefix is no plain absolute path" ;;
    esac
    case $user in
        '' | [!a-z_]* | *[!a-z0-9_-]*) wrong "--user: $user is no name of a user" ;;
    esac
    is_schedule || wrong "--schedule: $schedule is no schedule of cron's"
    for value in "$pgw_addr" "$pgw_job" "$pgw_instance" "$pgw_labels" "$pgw_user" "$exporter_metric"; do
        case $value in
            [\ \"\']*\"*\'* | [\ \"\']*\'*\"* | *\"*\'*[\ \"\'] | *\'*\"*[\ \"\'])
                wrong "$value: cron has no way to write both kinds of quotes and one at an end"
                ;;
        esac
    done
    listen=${exporter_addr#http://}
    listen=${listen%/}
    case $no_exporter:$listen in
        yes:*) ;;
        *[!]A-Za-z0-9._:[-]* | :*:0*) wrong "--exporter-addr: it is to listen there: give host:port" ;;
        :127.*:[1-9]* | :localhost:[1-9]* | :\[::1\]:[1-9]*) ;;
        *) wrong "--exporter-addr: it is to listen for this host only: give 127.0.0.1:port" ;;
    esac
    fit_splay
    [ -x "$binary" ] || return 0 # A dry run does not build.
    settings=$(mktemp)
    # With the files where they are now, and in the place of secrets that are in none something else.
    {
        make_crontab "$pgw_cacert" "$pgw_password_file" "$pgw_token_file" "$pgw_cert" "$pgw_key"
        [ -z "$pgw_user" ] || [ -n "$pgw_password_file" ] || echo "PGW_PASSWORD=given"
        [ -z "$token" ] || echo "PGW_TOKEN=given"
    } >"$settings"
    status=0
    judgement=$(with_settings sh -c "'$binary' --dry-run $extra" 2>&1 >/dev/null) || status=$?
    rm "$settings"
    judgement=${judgement#pgw-forwarder: error: } judgement=${judgement%. (exit status 2)}
    [ "$status" != 2 ] || wrong "${judgement%. See --help}"
}

# Whether cron takes the schedule: a name, or five fields within their bounds.
is_schedule() {
    printf '%s\n' "$schedule" | awk '
        /^@(reboot|yearly|annually|monthly|weekly|daily|midnight|hourly)$/ { exit }
        NF != 5 { exit bad = 1 }
        {
            split("0 0 1 1 0", least); split("59 23 31 12 7", most)
            for (i = 1; i <= 5; i++) {
                items = split($i, item, ",")
                for (k = 1; k <= items; k++) {
                    if (item[k] ~ /^[a-zA-Z][a-zA-Z][a-zA-Z]$/ && i > 3) continue
                    if (item[k] !~ /^(\*|[0-9]+(-[0-9]+)?)(\/[1-9][0-9]*)?$/) exit bad = 1
                    sub(/\/.*/, "", item[k])
                    numbers = split(item[k], number, "-")
                    for (n = 1; n <= numbers; n++)
                        if (number[n] != "*" && (number[n] + 0 < least[i] || number[n] + 0 > most[i]))
                            exit bad = 1
                }
            }
        }
        END { exit bad }'
}

# Chooses the splay, or judges the one that is given: with it and its time limits, a run ends some
# seconds before the next one begins.
fit_splay() {
    splay=$(SPLAY=$splay SCHEDULE=$schedule EXTRA=$extra awk 'BEGIN {
        # It begins a minute later, unless the first field tells that it is more.
        split(ENVIRON["SCHEDULE"], field)
        minutes = field[1] ~ /[*,-]/ ? 1 : 60
        if (sub(/^\*\//, "", field[1]) && 60 % field[1] == 0) minutes = field[1]
        most = minutes * 60 - 5
        split("probe 2 scrape 10 push 10", limit)
        for (i = 1; i < 6; i += 2) {
            if (match(ENVIRON["EXTRA"], "--" limit[i] "-timeout[= ]+[0-9][^ ]*")) {
                limit[i + 1] = substr(ENVIRON["EXTRA"], RSTART, RLENGTH)
                sub(/[^0-9]*/, "", limit[i + 1])
            }
            most -= limit[i + 1]
        }
        if (most < 0) most = 0
        splay = ENVIRON["SPLAY"]
        if (splay == "") splay = most < 30 ? most : 30
        is_too_long = splay + 0 > most
        print is_too_long ? most : splay
        exit is_too_long
    }') || wrong "--splay: the time limits of a run leave $splay seconds for it until the next run; give \
shorter ones, as in --extra '--scrape-timeout 3 --push-timeout 5'"
}

find_exporter() {
    [ -z "$no_exporter" ] || return 0
    if [ -n "$exporter_bin" ]; then
        [ -x "$exporter_bin" ] || wrong "--exporter-bin: $exporter_bin is no program"
        exporter=$exporter_bin
        case $exporter in
            *[!A-Za-z0-9._/+-]*) wrong "--exporter-bin: $exporter has a character that a unit cannot have" ;;
        esac
    elif name=$(program node_exporter); then
        exporter=$(command -v "$name")
    else
        exporter=
        has apt-get || has dnf || err "node_exporter is missing, and there is neither apt-get nor dnf to \
install it: get it, and give its place by --exporter-bin"
    fi
}

warn_about_open_exporters() {
    for unit in prometheus-node-exporter node_exporter node-exporter; do
        if systemctl --quiet is-active "$unit.service" || systemctl --quiet is-enabled "$unit.service" 2>/dev/null; then
            warn "$unit.service was here before and is left alone; if its port is open (ss -ltn), close it: \
systemctl disable --now $unit.service"
        fi
    done
}

add_exporter() {
    if [ -z "$exporter" ]; then
        if has apt-get; then
            add_package prometheus-node-exporter
            exporter=/usr/bin/prometheus-node-exporter
        else
            add_package node-exporter
            exporter=/usr/bin/node_exporter
        fi
    fi
    add_user node-exporter
}

# add_package_if_missing PACKAGE COMMAND...
add_package_if_missing() {
    package=$1
    shift
    for command in "$@"; do
        ! has "$command" || return 0
    done
    has apt-get || package=cronie
    add_package "$package"
}

finish_packages() {
    packages=$(made_of package)
    if [ -n "$packages" ]; then
        # shellcheck disable=SC2086 # a list of names
        install_packages $packages
    else
        lacking=
        stop_forbidding
    fi
}

# Remembered first: an interruption must not make it a package that was always there.
add_package() {
    # With others that it needs, as far as apt-get knows them before it is brought up to date.
    for needed in "$1" $(apt-get -qs install --no-install-recommends "$1" 2>/dev/null | sed -n 's/^Inst \([^ ]*\).*/\1/p'); do
        is_installed "$needed" || remember "package $needed"
    done
    if has apt-get; then
        step "install the package $1, without starting a service of it" install_packages "$1"
    else
        step "install the package $1" dnf --assumeyes --quiet install "$1"
    fi
}

remove_packages() {
    if has apt-get; then
        others=$(apt-get -s purge "$@" | awk '$1 == "Purg" || $1 == "Remv" { print $2 }' |
            grep -vxF "$(printf '%s\n' "$@")") || :
        if [ -n "$others" ]; then
            warn "left alone: $*; more would go with them: $(printf '%s' "$others" | tr '\n' ' ')"
        else
            DEBIAN_FRONTEND=noninteractive apt-get -qqy purge "$@" >/dev/null
        fi
    else
        dnf --assumeyes --quiet remove "$@"
    fi
}

# What cron had begun as this user may need a moment to end.
remove_user() {
    tries=50
    until why=$(userdel "$1" 2>&1); do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || err "$why"
        sleep 0.1
    done
}

# A user that was there before is taken as it is; one that an interrupted run has begun to add is
# added anew, since it may lack its group or its line in one of the files.
add_user() {
    if id "$1" >/dev/null 2>&1; then
        ! made_of user | grep -qx "$1" || made_of whole | grep -qx "$1" || new_user "$1"
    else
        remember "user $1"
        step "add the user $1" new_user "$1"
    fi
    ! made_of user | grep -qx "$1" || remember "whole $1"
}

new_user() {
    userdel "$1" 2>/dev/null || :
    groupdel "$1" 2>/dev/null || :
    useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin "$1"
}

put_binary() {
    remember_file "$prefix/bin/pgw-forwarder"
    cmp -s "$binary" "$prefix/bin/pgw-forwarder" ||
        step "install $prefix/bin/pgw-forwarder" install_file 755 "$binary" "$prefix/bin/pgw-forwarder"
}

# install_file MODE FROM TO: in one move, so that whoever reads it finds all or nothing of it.
install_file() {
    install -D -m "$1" "$2" "$3.new"
    mv "$3.new" "$3"
}

# The directory for the lock, now and after each boot.
make_run_directory() {
    group=$(id -gn "$user" 2>/dev/null) || group=$user # A dry run adds no user.
    put 644 "$tmpfiles" "d $run_directory 0755 $user $group -"
    if [ "$(stat -c %U "$run_directory" 2>/dev/null)" != "$user" ]; then
        # The files of another user are locks that this one cannot take.
        step "make $run_directory" new_run_directory
    fi
}

new_run_directory() {
    rm -rf "$run_directory"
    systemd-tmpfiles --create "$tmpfiles"
}

put_unit() {
    put 644 "$unit_file" "$(
        sed "s|/usr/bin/prometheus-node-exporter|$exporter|; s|127\.0\.0\.1:9014|$listen|" \
            deploy/node/exporter.service
    )"
    [ -z "$changed" ] || step "reload systemd" systemctl daemon-reload
    systemctl --quiet is-enabled exporter.service 2>/dev/null ||
        step "enable exporter.service" systemctl --quiet enable exporter.service
    if [ -n "$changed" ] || ! runs_as_told; then
        step "restart exporter.service" systemctl --quiet restart exporter.service
    fi
}

# Whether the exporter that runs is the one of the unit: an interrupted run may have changed that.
runs_as_told() {
    pid=$(systemctl show --property=MainPID --value exporter.service)
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" |
        grep -qF -- "$exporter --web.listen-address=$listen "
}

start_cron() {
    for service in cron crond; do
        systemctl --quiet is-active "$service.service" && return
    done
    service=cron
    # In a dry run, it may be yet to come.
    has cron || has apt-get || service=crond
    step "enable and start $service.service" systemctl --quiet enable --now "$service.service"
}

put_crontab() {
    # shellcheck disable=SC2086 # a list of names
    set -- $access_files
    # Those of them that are needed.
    set -- "${pgw_cacert:+$1}" "${pgw_user:+$2}" "${pgw_token_file:+$3}${token:+$3}" "${pgw_cert:+$4}" "${pgw_key:+$5}"
    crontab=$(make_crontab "$@")
    mode=644
    case $crontab in
        # cron reads it as root; a secret is nobody else's business.
        *_PASSWORD=* | *_TOKEN=* | *://*:*@*) mode=600 ;;
    esac
    # What a run that could not finish uninstalling has kept counts as what was before.
    [ ! -f "$leaving" ] || [ -n "$dry_run" ] || mv "$leaving" "$cron_file"
    # Under another key than before, the group of that one would stay for ever.
    if [ -f "$cron_file" ] && [ "$(keys <"$cron_file")" != "$(printf '%s\n' "$crontab" | keys)" ]; then
        step "keep the former settings, to delete their metrics when the new ones have pushed" keep_former
    elif [ -z "$compression" ] && grep -qsx PGW_COMPRESSION=gzip "$cron_file"; then
        # The same gateways took it before.
        set_compression gzip
    fi
    put_access "$1" "$pgw_cacert" ''
    put_access "$2" "$pgw_password_file" "$password"
    put_access "$3" "$pgw_token_file" "$token"
    put_access "$4" "$pgw_cert" ''
    put_access "$5" "$pgw_key" ''
    put "$mode" "$cron_file" "$crontab"
    # Last: what is not needed any more may be what the others were made of.
    for file in $access_files; do
        case " $* " in
            *" $file "*) ;;
            *) ! is_ours "$file" || [ ! -e "$file" ] || step "remove $file" rm -f "$file" ;;
        esac
    done
}

keep_former() {
    # Its user is to read it.
    install -d -m 755 "$state" "$former"
    kept=$(mktemp -d "$former/XXXXXX")
    chmod 755 "$kept"
    for file in $access_files; do
        [ ! -f "$file" ] || cp -p "$file" "$kept"
    done
    (umask 077 && sed "s|=$access/|=$kept/|" "$cron_file" >"$kept/new")
    mv "$kept/new" "$kept/crontab"
}

# put_access TO FILE TEXT: gives cron's user a copy of the file, or the text, if there is either.
put_access() {
    [ -n "$2$3" ] || return 0
    remember_file "$1"
    step "write $1" write_access "$@"
}

write_access() {
    install -d -m 755 "$access"
    rm -f "$1.new"
    (
        umask 077
        case $2 in
            '') printf '%s\n' "$3" ;;
            *) cat "$2" ;;
        esac >"$1.new"
    )
    chown "$user" "$1.new"
    # A file of a certificate may have its key in it.
    chmod 400 "$1.new"
    mv "$1.new" "$1"
}

# The lines of a cron file that say where its pushes go.
keys() {
    grep -E '^(PGW_(ADDR|JOB|INSTANCE|LABELS)=|[^#].* 2>&1)' | sed 's/^.* \(\/.* 2>&1\)/\1/'
}

# make_crontab CACERT PASSWORD TOKEN CERT KEY: crontab.example with this node's values, and these files.
make_crontab() {
    PGW_CACERT=$1 PGW_USER=$pgw_user PGW_PASSWORD_FILE=$2 PGW_TOKEN_FILE=$3 PGW_CERT=$4 PGW_KEY=$5 \
    PGW_ADDR=$pgw_addr PGW_JOB=$pgw_job PGW_INSTANCE=$pgw_instance PGW_LABELS=$pgw_labels \
        EXPORTER_ADDR=$exporter_addr EXPORTER_METRIC=$exporter_metric PGW_COMPRESSION=$compression FORWARDER_SPLAY=$splay \
        SCHEDULE=$schedule CRON_USER=$user PROGRAM=$prefix/bin/pgw-forwarder EXTRA=$extra \
        awk '
        /^#?[A-Z_]+=/ {
            name = $0
            gsub(/^#|=.*/, "", name)
            value = ENVIRON[name]
            if (value != "") {
                # cron drops white space and quotes at the ends, unless there are quotes around them.
                quote = value !~ /^[ \t"\047]|[ \t"\047]$/ ? "" : value ~ /"/ ? "\047" : "\""
                $0 = name "=" quote value quote
            }
        }
        /^\*/ {
            extra = ENVIRON["EXTRA"]
            gsub(/%/, "\\%", extra)
            # The schedule has five words; then come the user and the program.
            for (i = 0; i < 7; i++) sub(/^[^ ]+ /, "")
            $0 = ENVIRON["SCHEDULE"] " " ENVIRON["CRON_USER"] " " ENVIRON["PROGRAM"] \
                (extra == "" ? "" : " " extra) " " $0
        }
        { print }' crontab.example
}

# put MODE FILE TEXT: writes a file that is root's, unless it is like that already.
put() {
    remember_file "$2"
    changed=
    new=$(mktemp)
    printf '%s\n' "$3" >"$new"
    if ! cmp -s "$new" "$2" || [ "$(stat -c %a:%u:%g "$2")" != "$1:0:0" ]; then
        changed=yes
        step "write $2" install_file "$1" "$new" "$2"
    fi
    rm "$new"
}

# as_cron ARG...: runs the command of the cron file $settings as cron does, with further arguments
# and without the splay.
as_cron() {
    entry=$(grep -m 1 '^[^#].* 2>&1 | logger ' "$settings")
    entry=$(printf '%s\n' "${entry% 2>&1 *}" | sed 's/\\%/%/g')
    # The program is the first word that begins with a slash; the word before it is the user.
    command=/${entry#* /}
    cron_user=${entry%" $command"}
    with_settings FORWARDER_SPLAY=0 ${compression:+"PGW_COMPRESSION=$compression"} \
        "$(command -v runuser)" -u "${cron_user##* }" -- sh -c "$command $*"
}

# before_cron ARG...: as_cron, in the place of cron's own run, which may still sleep its splay; sets
# $status.
before_cron() {
    tries=30
    while status=0 && said=$(as_cron "$@" 2>&1) || status=$?; [ "$status" = 3 ] && [ "$tries" -gt 0 ]; do
        end_runs
        sleep 1
        tries=$((tries - 1))
    done
    [ -z "$said" ] || printf '%s\n' "$said" >&2
}

# with_settings COMMAND...: runs it with the variables of the cron file $settings alone.
with_settings() {
    while IFS= read -r line; do
        case $line in
            [A-Za-z_]*=*)
                value=${line#*=}
                case $value in
                    \"*\" | \'*\') value=${value#?} value=${value%?} ;;
                esac
                set -- "${line%%=*}=$value" "$@"
                ;;
        esac
    done <"$settings"
    env -i PATH=/usr/bin:/bin "$@"
}

# Shows that the node is under watch, and ends with the status of its first push.
prove() {
    settings=$cron_file
    if [ -z "$no_exporter" ]; then
        say "asking the exporter"
        tries=50
        until status=0 && why=$(as_cron --dry-run 2>&1 >/dev/null) || status=$?; [ "$status" = 0 ]; do
            tries=$((tries - 1))
            [ "$status" != 2 ] || err "all is installed, but with wrong options: $why"
            [ "$tries" -gt 0 ] || err "exporter.service does not do its work: $why; see journalctl -u exporter"
            sleep 0.2
        done
        if ! runs_as_told || ! listens "$pid" "${listen##*:}"; then
            err "something else than exporter.service answers at $listen: see ss -ltnp"
        fi
    fi
    port=${listen##*:}
    ! is_open "${port%%[!0-9]*}" ||
        warn "not only this host can reach the exporter's port: see ss -ltn"
    say "pushing, as cron will"
    if [ -n "$compression" ]; then before_cron; else choose_compression; fi
    if [ -d "$former" ]; then
        case $status in
            0) delete_former && before_cron ;;
            *) warn "the metrics of the former settings stay until this script has pushed: run it again" ;;
        esac
    fi
    case $status in
        0) say "done: this node is under watch. What it says: journalctl -t pgw-forwarder" ;;
        4 | 5) warn "all is installed, but the exporter is not as it should be, see above" ;;
        6 | 7) warn "all is installed, but not every gateway took the push, see above; cron goes on trying each minute" ;;
        *) warn "all is installed, but the first push failed, see above" ;;
    esac
    exit "$status"
}

# Pushes with gzip and, if a gateway answers 400 as those before 1.5.0 do, again without. Writes what worked
# into the cron file, or none if nothing did: every gateway takes that.
choose_compression() {
    compression=gzip
    before_cron
    case $status:$said in
        7:*"refused: 400"*) say "pushing again, without gzip" && compression=none && before_cron ;;
        [1-9]*) compression=none && warn "cron pushes without gzip, since this push does not show whether \
the gateway takes it: run this again to try" ;;
    esac
    set_compression "$compression"
    put "$mode" "$cron_file" "$crontab"
}

set_compression() {
    crontab=$(printf '%s\n' "$crontab" | sed "s/^PGW_COMPRESSION=.*/PGW_COMPRESSION=$1/")
}

# Whether the process $1 listens on port $2.
listens() {
    sockets=$(listeners "$2" | sed 's/.* \(.*\)/socket:[\1]/')
    for file in "/proc/$1/fd"/*; do
        ! printf '%s\n' "$sockets" | grep -qxF "$(readlink "$file")" || return 0
    done
    return 1
}

# Whether somebody listens on port $1 of another address than the loopback interface's.
is_open() {
    listeners "$1" | grep -qvE '^([0-9A-F]*7F|00000000000000000000000001000000) '
}

# The sockets that listen on port $1: address, as the kernel shows it, and inode.
listeners() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port=":$(printf %04X "$1")" '
        $4 == "0A" && substr($2, length($2) - 4) == port { print substr($2, 1, length($2) - 5), $10 }'
}

# Warns about other cron entries that push the same group: pgw-forwarder's own, or a pair of curl's.
# Their words are not shown: there may be passwords among them.
warn_about_other_entries() {
    [ -z "$pgw_labels$extra" ] || return 0 # Theirs is another group, or cannot be told.
    for file in /etc/crontab /etc/cron.d/* /var/spool/cron/crontabs/* /var/spool/cron/*; do
        case $file in
            "$cron_file" | /etc/cron.d/*[!A-Za-z0-9_-]*) continue ;; # cron passes over the latter.
        esac
        [ -f "$file" ] || continue
        ADDR=$pgw_addr JOB=${pgw_job:-node} INSTANCE=${pgw_instance:-$(uname -n)} HOST=$(uname -n) awk '
            # What a line gives to an option or variable, else what the file or the default does.
            function given(option, name, otherwise) {
                if (match(line, "(" option "[= ]|" name "=)[^ ]*")) {
                    found = substr(line, RSTART, RLENGTH)
                    sub("^(" option "[= ]|" name "=)", "", found)
                    return found
                }
                return name in variable ? variable[name] : otherwise
            }
            /^[ \t]*#/ { next }
            /^[ \t]*[A-Za-z_][A-Za-z0-9_]*[ \t]*=/ {
                name = value = $0
                gsub(/^[ \t]*|[ \t]*=.*/, "", name)
                sub(/[^=]*=[ \t]*/, "", value)
                gsub(/^["\047]|["\047]?[ \t]*$/, "", value)
                variable[name] = value
                next
            }
            {
                line = $0
                gsub(/["\047]/, "", line)
                gsub(/\$\((hostname( -f)?|uname -n)\)|`(hostname( -f)?|uname -n)`|\$HOSTNAME|\$\{HOSTNAME\}/, ENVIRON["HOST"], line)
                for (name in variable) {
                    gsub("\\$\\{" name "\\}", variable[name], line)
                    # Not the beginning of a longer name; and what was put in is not looked at again.
                    done = ""
                    while (match(line, "\\$" name "([^A-Za-z0-9_]|$)")) {
                        done = done substr(line, 1, RSTART - 1) variable[name]
                        line = substr(line, RSTART + length(name) + 1)
                    }
                    line = done line
                }
                group = "/metrics/job/" ENVIRON["JOB"] "/instance/" ENVIRON["INSTANCE"]
                at = index(line, ENVIRON["ADDR"] group)
                next_one = substr(line, at + length(ENVIRON["ADDR"] group), 1)
                if (at && next_one !~ /[A-Za-z0-9._~%\/-]/) print FNR
                else if (line ~ /pgw-forwarder/ && line !~ /--pgw-label|PGW_LABELS/ && !("PGW_LABELS" in variable) &&
                    given("--pgw-addr", "PGW_ADDR", "127.0.0.1:9091") == ENVIRON["ADDR"] &&
                    given("--pgw-job", "PGW_JOB", "node") == ENVIRON["JOB"] &&
                    given("--pgw-instance", "PGW_INSTANCE", ENVIRON["HOST"]) == ENVIRON["INSTANCE"]) print FNR
            }' "$file" | while read -r number; do
            warn "line $number of $file pushes the same metrics: remove it"
        done
    done
}

# Deletes what former settings pushed; and what has just been pushed, where that is the same.
delete_former() {
    say "deleting the metrics of the former settings"
    for settings in "$former"/*/crontab; do
        [ -f "$settings" ] || continue
        before_cron --delete
        [ "$status" = 0 ] || warn "what was pushed with them is still there, see above"
    done
    rm -rf "$former"
    settings=$cron_file
}

# Deletes all that this node has pushed, or ends.
delete_groups() {
    for settings in "$former"/*/crontab "$leaving"; do
        [ -f "$settings" ] || continue
        before_cron --delete
        case $status in
            0) rm -f "$settings" ;;
            2) warn "run this again with --keep-metrics" && exit 2 ;;
            *) warn "run this again when the gateway can be asked, or with --keep-metrics" && exit "$status" ;;
        esac
    done
}

remember() {
    [ -n "$dry_run" ] || grep -qsxF "$1" "$made" || {
        mkdir -p "$state"
        printf '%s\n' "$1" >>"$made"
    }
}

# A file that was there before is not this script's to remove.
remember_file() {
    [ -e "$1" ] || remember "file $1"
}

# What was made of the kind $1.
made_of() {
    [ ! -f "$made" ] || sed -n "s/^$1 //p" "$made"
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

# Installs packages so that no service of theirs starts, now or at the next boot: the one of
# prometheus-node-exporter would open port 9100 to everybody.
install_packages() {
    has apt-get || err "these are missing, and there is no apt-get to install them: $*"
    lacking=
    for package in "$@"; do
        ! is_interrupted && is_installed "$package" || lacking="$lacking $package"
    done
    [ -n "$lacking" ] || return 0
    [ "$(id -u)" = 0 ] || has sudo || err "these packages are missing, and to install them takes root:$lacking"

    say "installing from the distribution:$lacking"
    log=$(mktemp)
    trap stop_forbidding EXIT
    trap 'exit 130' INT TERM HUP
    forbid_services
    # shellcheck disable=SC2086 # a list of names
    if ! {
        # What is known of packages may do, if it cannot be brought up to date.
        as_root apt-get -q update || :
        as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
            apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends $lacking
    } >"$log" 2>&1; then
        err "apt-get could not install$lacking: $(cat "$log")"
    fi
    trap - EXIT INT TERM HUP
    stop_forbidding
}

policy=/usr/sbin/policy-rc.d
mark="# pgw-forwarder's install.sh: no service starts while it installs packages"

# Whether a run of this script was killed while it installed packages.
is_interrupted() {
    [ -e "$policy.saved" ] || grep -qsF "$mark" "$policy"
}

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
    rm -f "${log-}"
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
                # Some units cannot be disabled, and need not be.
                ! has systemctl || as_root systemctl --quiet disable "${file##*/}" >/dev/null 2>&1 || :
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

# step WORDS COMMAND...: says what is done, and does it, unless this is a dry run.
step() {
    say "$1"
    shift
    [ -n "$dry_run" ] || "$@"
}

say() {
    printf '==> %s\n' "$*"
}

warn() {
    printf '%s: warning: %s\n' "${0##*/}" "$*" >&2
}

wrong() {
    printf '%s: %s; see --help\n' "${0##*/}" "$*" >&2
    exit 2
}

err() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

newline='
'

# tests/bench.sh reads this file for some of its verbs.
[ -n "${only_verbs-}" ] || main "$@"
