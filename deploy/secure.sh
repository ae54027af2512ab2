#!/bin/sh
# Makes the certificates and passwords of deploy/compose.secured.yaml. See usage.
set -eu
cd "$(dirname "$0")"
# shellcheck disable=SC2034 # With it, install.sh only defines its functions.
only_verbs=yes
# shellcheck source=install.sh
. ../install.sh

usage() {
    cat <<'USAGE'
Usage: deploy/secure.sh NAME...
       deploy/secure.sh --add-user USER | --remove-user USER

Makes the files in deploy/secured that deploy/compose.secured.yaml needs: a CA, a certificate for the gateway
for a year, and passwords for the nodes and for Prometheus. Each NAME is a name or an address of the gateway
that nodes use. A rerun makes a new certificate, and keeps the CA and the passwords.

  --add-user USER     make USER and deploy/secured/USER.password; a USER who exists gets a new password
  --remove-user USER  the gateway no longer accepts USER

The gateway accepts a change of the users at once.
USAGE
}

make_all() {
    # Prometheus uses the first name, and this host the others.
    names=DNS:gateway,DNS:localhost,IP:127.0.0.1
    for name in "$@"; do
        case $name in
            '' | -* | *[!A-Za-z0-9.:-]*) wrong "$name is neither a name nor an address" ;;
            *:*) names=$names,IP:$name ;;
            *[!0-9.]*) names=$names,DNS:$name ;;
            *) names=$names,IP:$name ;;
        esac
    done
    enter_directory
    # If compose was started first, Docker made an empty directory for each missing file.
    rmdir ./*.* 2>/dev/null || :

    if [ ! -f ca.crt ]; then
        say "making a CA: ca.crt"
        certificate ca -days 3650 -subj /CN=pgw-forwarder -addext keyUsage=critical,keyCertSign
    fi
    say "making the gateway's certificate, for a year, for $names"
    certificate gateway -days 365 -CA ca.crt -CAkey ca.key -subj /CN=gateway \
        -addext "subjectAltName=$names" -addext basicConstraints=critical,CA:FALSE \
        -addext extendedKeyUsage=serverAuth
    chmod 644 ca.crt gateway.crt gateway.key

    if [ ! -f web.yml ]; then
        cat >users <<'CONFIG'
tls_server_config:
  cert_file: /run/secured/gateway.crt
  key_file: /run/secured/gateway.key
basic_auth_users:
CONFIG
        add_user node
        add_user prometheus
        write_users
    fi
    say "done. Start the gateway, or restart it with the new certificate:
docker compose -f deploy/compose.yaml -f deploy/compose.secured.yaml up -d --force-recreate
Each node needs deploy/secured/ca.crt, a user, and its password: deploy/secured/USER.password."
}

# Only its owner can enter the directory, and one run at a time.
enter_directory() {
    has openssl || err "openssl is missing. Install version 3"
    has htpasswd || err "htpasswd is missing. Debian has it in the package apache2-utils"
    mkdir -p secured
    chmod 700 secured
    cd secured
    exec 9>lock
    flock 9
}

# certificate NAME ARG...: makes NAME.key and NAME.crt. By the renames, a running container keeps the old files until
# it is restarted.
certificate() {
    name=$1
    shift
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout key.new -out crt.new "$@" 2>log || err "openssl: $(cat log)"
    rm log
    mv key.new "$name.key"
    mv crt.new "$name.crt"
}

# change_users VERB USER
change_users() {
    case $1:$2 in
        *: | *:*[!a-z0-9_-]*) wrong "give a user of small letters, digits, - and _" ;;
        remove_user:prometheus) wrong "Prometheus needs the user prometheus" ;;
    esac
    [ -f secured/web.yml ] || err "deploy/secured has no users yet. Run deploy/secure.sh NAME first"
    enter_directory
    [ "$1" = add_user ] || grep -q "^  $2: " web.yml || wrong "there is no user $2"
    sed "/^  $2: /d" web.yml >users
    "$1" "$2"
    write_users
    say "done. The gateway accepts: $(sed -n 's/^  \(.*\): [$].*/\1/p' web.yml | paste -s -d ' ')"
}

add_user() {
    openssl rand -hex 24 >new.password
    login=$(htpasswd -niB "$1" <new.password) || err "htpasswd failed"
    printf '  %s: %s\n' "$1" "${login#*:}" >>users
    cat new.password >"$1.password"
    rm new.password
}

remove_user() {
    rm -f "$1.password"
}

# A running container has mounted the files themselves, and would not see others under their names.
write_users() {
    cat users >web.yml
    rm users
    # The containers read these as another user.
    chmod 644 web.yml prometheus.password
}

umask 077
case ${1-} in
    -h | --help) usage ;;
    '') wrong "NAME is missing. Give the names and addresses of the gateway that nodes use" ;;
    --add-user) change_users add_user "${2-}" ;;
    --remove-user) change_users remove_user "${2-}" ;;
    -*) wrong "$1 is not an option" ;;
    *) make_all "$@" ;;
esac
