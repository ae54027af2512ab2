#!/bin/sh
# Makes what deploy/compose.secured.yaml needs, in deploy/secured: a certificate for the gateway, and
# passwords for the nodes and for Prometheus. Run again, it makes a new certificate; the authority
# and the passwords stay.
# Usage: deploy/secure.sh NAME..., the names and addresses by which the nodes know the gateway.
set -eu
cd "$(dirname "$0")"
# shellcheck disable=SC2034 # install.sh looks at it, and gives its verbs.
only_verbs=yes
# shellcheck source=install.sh
. ../install.sh

case ${1-} in
    -h | --help) echo "Usage: deploy/secure.sh NAME..., the names and addresses of the gateway" && exit ;;
    '') wrong "by which names or addresses do the nodes know the gateway?" ;;
esac
# Prometheus's name for it, and this host's.
names=DNS:gateway,DNS:localhost,IP:127.0.0.1
for name in "$@"; do
    case $name in
        '' | -* | *[!A-Za-z0-9.:-]*) wrong "$name is neither a name nor an address" ;;
        *:*) names=$names,IP:$name ;;
        *[!0-9.]*) names=$names,DNS:$name ;;
        *) names=$names,IP:$name ;;
    esac
done
has openssl || packages_without_services openssl
has htpasswd || packages_without_services apache2-utils

# Nobody else on this host can enter the directory. Each container is given its own files of it
# alone, which it reads as a user that is not their owner: hence the modes below.
umask 077
mkdir -p secured
chmod 700 secured
cd secured
# Docker makes a directory of each file that it does not find, if it was faster.
rmdir ./*.* 2>/dev/null || :

# certificate NAME ARG...: makes NAME.key and, last of all, NAME.crt. A container that runs keeps
# those that it was given.
certificate() {
    name=$1
    shift
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -keyout key.new -out crt.new "$@" 2>log || err "openssl: $(cat log)"
    rm log
    mv key.new "$name.key"
    mv crt.new "$name.crt"
}

if [ ! -f ca.crt ]; then
    say "making an authority: ca.crt"
    certificate ca -days 3650 -subj /CN=pgw-forwarder -addext keyUsage=critical,keyCertSign
fi
say "making the gateway's certificate, for a year, for $names"
certificate gateway -days 365 -CA ca.crt -CAkey ca.key -subj /CN=gateway \
    -addext "subjectAltName=$names" -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=serverAuth

# What an administrator has added to it stays.
if [ ! -f web.yml ]; then
    cat >web.new <<'CONFIG'
tls_server_config:
  cert_file: /run/secured/gateway.crt
  key_file: /run/secured/gateway.key
basic_auth_users:
CONFIG
    for user in node prometheus; do
        openssl rand -hex 24 >"$user.password"
        login=$(htpasswd -niB "$user" <"$user.password") || err "htpasswd has failed"
        printf '  %s: %s\n' "$user" "${login#*:}" >>web.new
    done
    mv web.new web.yml
fi
chmod 644 ca.crt gateway.crt gateway.key prometheus.password web.yml

say "done. Start it, or give it the new certificate:
docker compose -f deploy/compose.yaml -f deploy/compose.secured.yaml up -d --force-recreate
The nodes need deploy/secured/ca.crt, the user node, and deploy/secured/node.password."
