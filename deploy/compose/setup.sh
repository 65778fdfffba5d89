#!/bin/bash
# Makes what deploy/compose.yaml needs and nobody else should have: settings, certificates, passwords, in
# deploy/compose/local. Run it again at any time: what is there stays as it is; what was removed is made anew.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: setup.sh --seedlink HOST[:PORT] --station NET.STA… [options]

    --seedlink HOST[:PORT]   the SeedLink server to listen to
    --station NET.STA        what to ask it for; may be repeated, also as NET.STA.LOC.CHA, with * and ?
    --seedlink-user NAME     log in there; put the password into local/seedlink-password afterwards
    --name NAME              a name or address by which other computers know the broker; may be repeated
    --folder DIR             instead of deploy/compose/local

As root (sudo), each secret belongs to the one service that reads it. Otherwise they can be read by every service, and by
nobody else on this computer.
TEXT
}

fail() {
    printf 'setup.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
folder=$here/local seedlink="" seedlink_user="" stations=() names=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --seedlink | --station | --seedlink-user | --name | --folder)
        [ -n "${2-}" ] || fail "$1 needs a value" 2
        # What goes into a settings file between quotes.
        [[ $2 =~ ^[A-Za-z0-9._:/*?@-]+$ ]] || [ "$1" = --folder ] || fail "$1 $2: a character that no name has" 2
        ;;&
    --seedlink) seedlink=$2 ;;
    --station) stations+=("$2") ;;
    --seedlink-user) seedlink_user=$2 ;;
    --name) names+=("$2") ;;
    --folder) folder=$2 ;;
    *) fail "$1: unknown; setup.sh --help lists the options" 2 ;;
    esac
    shift 2
done

command -v openssl >/dev/null || fail "openssl is not installed: apt install openssl"
umask 077
mkdir -p "$folder/certs"

# place FILE USER [empty]: what comes in becomes the file. USER is the number of the service that reads it, 0 where none
# does, or all. Nothing is placed where nothing came, for then its maker has failed.
place() {
    local unfinished=$folder/$1.part
    cat >"$unfinished"
    if [ ! -s "$unfinished" ] && [ "${3-}" != empty ]; then
        rm -f "$unfinished"
        fail "$folder/$1 could not be made"
    fi
    if [ "$2" = 0 ]; then
        chmod 0400 "$unfinished"
    elif [ "$2" != all ] && [ "$EUID" -eq 0 ]; then
        chown "$2" "$unfinished"
        chmod 0400 "$unfinished"
    else
        chmod 0444 "$unfinished"
    fi
    mv -f "$unfinished" "$folder/$1"
    printf 'made %s\n' "$folder/$1"
}

lacks() { [ ! -e "$folder/$1" ]; }

readonly mosquitto=1883 monitor=10001 nobody=65534 grafana=472

# -- settings ----------------------------------------------------------------------------------------------------------

if lacks monitor.toml; then
    if [ -z "$seedlink" ] || [ ${#stations[@]} -eq 0 ]; then
        fail "what to listen to? --seedlink HOST --station NET.STA" 2
    fi
    host=${seedlink%:*} port=""
    [[ $seedlink == *:* ]] && port="port = ${seedlink##*:}"
    [[ $port =~ ^(port = [0-9]+)?$ ]] || fail "--seedlink $seedlink: accepted: HOST or HOST:PORT" 2
    quoted=$(printf '"%s", ' "${stations[@]}")
    login=""
    [ -z "$seedlink_user" ] || login="user = \"$seedlink_user\"
password_file = \"/run/secrets/seedlink-password\""
    place monitor.toml all <<TOML
# The monitor of compose.yaml; all that can be set: deploy/monitor.toml.
[[seedlink]]
host = "$host"
$port
stations = [${quoted%, }]
$login

[mqtt]
host = "mosquitto"
tls = true
ca_file = "ca.crt"
user = "monitor"
password_file = "/run/secrets/mqtt-password"
client_id = "monitor"
TOML
fi

# -- certificates ------------------------------------------------------------------------------------------------------

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1; }

if lacks ca.key || lacks certs/ca.crt; then
    new_key | place ca.key 0
    openssl req -x509 -new -key "$folder/ca.key" -days 3650 -subj "/CN=seismic-monitor" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" | place certs/ca.crt all
    rm -f "$folder/certs/server.crt"
fi
if lacks certs/server.key; then
    new_key | place certs/server.key "$mosquitto"
    rm -f "$folder/certs/server.crt"
fi
if lacks certs/server.crt; then
    alternatives="DNS:mosquitto,DNS:localhost,IP:127.0.0.1"
    for name in "${names[@]}"; do
        if [[ $name =~ ^[0-9.]+$|: ]]; then alternatives+=",IP:$name"; else alternatives+=",DNS:$name"; fi
    done
    openssl req -new -key "$folder/certs/server.key" -subj "/CN=mosquitto" |
        openssl x509 -req -CA "$folder/certs/ca.crt" -CAkey "$folder/ca.key" -days 825 -set_serial "0x$(openssl rand -hex 16)" \
            -extfile <(printf '%s\n' "subjectAltName=$alternatives" authorityKeyIdentifier=keyid subjectKeyIdentifier=hash \
                basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth) 2>/dev/null | place certs/server.crt all
fi

# -- passwords ---------------------------------------------------------------------------------------------------------

new_password() { openssl rand -hex 20; }

# mosquitto_passwd -U replaces each password of a file by its hash.
hash_passwords() {
    if command -v mosquitto_passwd >/dev/null; then
        mosquitto_passwd -U "$1"
    else
        command -v docker >/dev/null || fail "neither mosquitto_passwd nor docker is here: apt install mosquitto"
        docker run --rm --network none --user 0:0 --volume "$folder:/local" docker.io/library/eclipse-mosquitto:2.0.22 \
            mosquitto_passwd -U "/local/$(basename "$1")"
    fi
}

if lacks passwords; then
    declare -A password
    for user in monitor listener homeassistant health; do
        password[$user]=$(new_password)
    done
    plain=$folder/passwords.plain
    trap 'rm -f "$plain"' EXIT
    for user in "${!password[@]}"; do
        printf '%s:%s\n' "$user" "${password[$user]}"
    done >"$plain"
    hash_passwords "$plain"
    printf '%s\n' "${password[monitor]}" | place mqtt-password "$monitor"
    printf '%s\n' "${password[listener]}" | place listener-password 0
    printf '%s\n' "${password[homeassistant]}" | place homeassistant-password 0
    printf -- '-u health\n-P %s\n' "${password[health]}" | place mosquitto-health "$mosquitto"
    place passwords "$mosquitto" <"$plain"
    rm -f "$plain"
fi
if lacks grafana-password; then new_password | place grafana-password "$grafana"; fi
# Empty until needed; compose wants the files.
if lacks seedlink-password; then place seedlink-password "$monitor" empty </dev/null; fi
if lacks smtp-password; then place smtp-password "$nobody" empty </dev/null; fi

echo "Ready: docker compose --file $(dirname "$here")/compose.yaml up --detach --build"
