#!/bin/sh
# Makes the files in deploy/secured that deploy/compose.secured.yaml needs: a CA, a certificate for the
# gateway, and passwords for the nodes and for Prometheus. A rerun makes a new certificate, and keeps the CA
# and the passwords.
# Usage: deploy/secure.sh NAME...
# Each NAME is a name or an address of the gateway that nodes use.
set -eu
cd "$(dirname "$0")"
# shellcheck disable=SC2034 # With it, install.sh only defines its functions.
only_verbs=yes
# shellcheck source=install.sh
. ../install.sh

case ${1-} in
    -h | --help) echo "Usage: deploy/secure.sh NAME... (names and addresses of the gateway that nodes use)" && exit ;;
    '') wrong "NAME is missing. Give the names and addresses of the gateway that nodes use" ;;
esac
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
has openssl || err "openssl is missing. Install version 3"
has htpasswd || err "htpasswd is missing. Debian has it in the package apache2-utils"

# Only its owner can enter the directory. Each container gets some of the files, and reads them as another
# user, so these files are readable by all.
umask 077
mkdir -p secured
chmod 700 secured
cd secured
# If compose was started first, Docker made an empty directory for each missing file.
rmdir ./*.* 2>/dev/null || :

# certificate NAME ARG...: makes NAME.key and NAME.crt. The renames leave the files alone that a running
# container has mounted.
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
    say "making a CA: ca.crt"
    certificate ca -days 3650 -subj /CN=pgw-forwarder -addext keyUsage=critical,keyCertSign
fi
say "making the gateway's certificate, for a year, for $names"
certificate gateway -days 365 -CA ca.crt -CAkey ca.key -subj /CN=gateway \
    -addext "subjectAltName=$names" -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=serverAuth

# A rerun keeps users that an administrator has added.
if [ ! -f web.yml ]; then
    cat >web.new <<'CONFIG'
tls_server_config:
  cert_file: /run/secured/gateway.crt
  key_file: /run/secured/gateway.key
basic_auth_users:
CONFIG
    for user in node prometheus; do
        openssl rand -hex 24 >"$user.password"
        login=$(htpasswd -niB "$user" <"$user.password") || err "htpasswd failed"
        printf '  %s: %s\n' "$user" "${login#*:}" >>web.new
    done
    mv web.new web.yml
fi
chmod 644 ca.crt gateway.crt gateway.key prometheus.password web.yml

say "done. Start the gateway, or restart it with the new certificate:
docker compose -f deploy/compose.yaml -f deploy/compose.secured.yaml up -d --force-recreate
The nodes need deploy/secured/ca.crt, the user node, and deploy/secured/node.password."
