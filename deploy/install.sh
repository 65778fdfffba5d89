#!/bin/bash
# Installs the earthquake monitor as a service of systemd, upgrades it, or removes it. Run it again at any time: what is
# right already is left as it is. `install.sh --help` lists the options, docs/install.md shows them in use.
#
#   /opt/monitor/versions/VERSION-HASH/   one environment for each installed version
#   /opt/monitor/current                  the one that runs; an upgrade switches this link
#   /opt/monitor/previous                 the one that ran before; a rollback exchanges the two
#   /etc/monitor/*.toml                   settings: made once, never touched again
#   /etc/credstore/monitor.*              secrets, for root only; systemd hands them to the service
#   /var/lib/monitor                      state: positions in the streams, messages not yet delivered
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly here user=monitor
readonly exit_failed=1 exit_usage=2 exit_no_answer=3

usage() {
    cat <<'TEXT'
usage: install.sh [options]

  What to listen to and whom to tell; used where there are no settings yet (asked for on a terminal):
    --seedlink HOST[:PORT]        a SeedLink server; may be repeated
    --station NET.STA[.LOC.CHA]   what to ask the server named before for; may be repeated
    --seedlink-tls                encrypt the connection to the server named before
    --seedlink-user NAME          log in there; the password: --seedlink-password-file
    --mqtt HOST[:PORT]            the MQTT broker
    --mqtt-tls                    encrypt
    --mqtt-ca FILE                trust this authority (PEM) instead of the system's
    --mqtt-user NAME              log in; the password: --mqtt-password-file
    --http-port PORT              for metrics and health, on this computer only (9464, or the next that is free)
    --page-port PORT              for the station page (9465, or the next that is free)
    --page-listen ADDRESS         who may see it: 127.0.0.1, this computer only, unless set; 0.0.0.0 for everybody
    --page-user NAME              ask for a login there; the password: --page-password-file

  Secrets, never on the command line; the first line of a file, copied to /etc/credstore (asked for on a terminal):
    --mqtt-password-file FILE      --page-password-file FILE
    --seedlink-password-file FILE  --seedlink-token-file FILE

  How:
    --wheels DIR      install from these wheels, without any network
    --python PROGRAM  Python 3.11, 3.12 or 3.13 (python3)
    --instance NAME   one of several on this computer: monitor@NAME with /etc/monitor/NAME.toml
    --coral           let the service use a Coral USB Accelerator
    --no-start        do not start it now
    --wait SECONDS    how long a start may take before it counts as failed (120)
    --root DIR        put all files below DIR and start nothing
    --managed         the units came with a package and stay as they are
    --package         the same, and no settings are written: what the package does when it is unpacked

  Instead of installing:
    --rollback        go back to the version before
    --uninstall       remove program and service; settings, secrets and state stay
    --purge           with --uninstall: remove these, too

Exit codes: 0 done; 1 failed (after an upgrade: the version before runs again); 2 wrong usage or settings;
3 installed and running, but a server or the broker does not answer.
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit "${2:-$exit_failed}"
}

# -- the command line --------------------------------------------------------------------------------------------------

root="" wheels="" python=python3 instance="" action=install purge=no start=yes wait_s=120 package=no managed=no coral=no
# What a running service has to be restarted for.
changed=no
answers=() pip_command=()
declare -A secret_files=()

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --seedlink | --station | --seedlink-user | --mqtt | --mqtt-ca | --mqtt-user | --http-port | \
            --page-port | --page-listen | --page-user | \
            --mqtt-password-file | --seedlink-password-file | --seedlink-token-file | --page-password-file | \
            --wheels | --python | --instance | --wait | --root)
            [ -n "${2-}" ] || fail "$1 needs a value" $exit_usage
            ;;
        esac
        case $1 in
        --station | --seedlink-user | --seedlink-tls)
            [[ " ${answers[*]-} " == *" --seedlink "* ]] || fail "$1 comes after the --seedlink that it is about" $exit_usage
            ;;&
        --mqtt-tls | --mqtt-ca | --mqtt-user)
            [[ " ${answers[*]-} " == *" --mqtt "* ]] || fail "$1 comes after --mqtt" $exit_usage
            ;;&
        --seedlink | --station | --seedlink-user | --mqtt | --mqtt-user | --http-port | \
            --page-port | --page-listen | --page-user) answers+=("$1" "$2") && shift 2 ;;
        --mqtt-ca) answers+=("$1" "$(realpath -e -- "$2")") && shift 2 ;;
        --seedlink-tls | --mqtt-tls) answers+=("$1") && shift ;;
        --mqtt-password-file | --seedlink-password-file | --seedlink-token-file | --page-password-file)
            local name=${1#--}
            [ -r "$2" ] || fail "$1 $2: cannot be read" $exit_usage
            secret_files[${name%-file}]=$2
            shift 2
            ;;
        --wheels) wheels=$(realpath -e -- "$2") && shift 2 ;;
        --python) python=$2 && shift 2 ;;
        --instance) instance=$2 && shift 2 ;;
        --wait) wait_s=$2 && shift 2 ;;
        --root) root=$(realpath -m -- "$2") && shift 2 ;;
        --coral) coral=yes && shift ;;
        --no-start) start=no && shift ;;
        --managed) managed=yes && shift ;;
        --package) package=yes managed=yes && shift ;;
        --rollback) action=rollback && shift ;;
        --uninstall) action=uninstall && shift ;;
        --purge) purge=yes && shift ;;
        -h | --help) usage && exit 0 ;;
        *) fail "$1: no such option; see install.sh --help" $exit_usage ;;
        esac
    done
    [[ $instance =~ ^[A-Za-z0-9_-]*$ ]] || fail "--instance $instance: accepted: letters, digits, - and _" $exit_usage
    [ "$instance" != monitor ] || fail "--instance monitor: this is the name of the one without a name" $exit_usage
    [[ $wait_s =~ ^[1-9][0-9]{0,3}$ ]] || fail "--wait $wait_s: accepted: 1 to 9999 seconds" $exit_usage
    [ $purge = no ] || [ $action = uninstall ] || fail "--purge goes with --uninstall" $exit_usage
}

# -- what is where -----------------------------------------------------------------------------------------------------

name_places() {
    opt=$root/opt/monitor
    etc=$root/etc/monitor
    units=$root/etc/systemd/system
    credstore=$root/etc/credstore
    service=monitor${instance:+@$instance}.service
    settings=$etc/${instance:-monitor}.toml
    state_name=monitor${instance:+-$instance}
    # A package has the units beside this script, a checkout in systemd/.
    unit_source=$here/systemd
    [ -d "$unit_source" ] || unit_source=$here/../systemd
}

# Is there a systemd to talk to? Not below --root, and not while an image is built.
booted() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# The version that the link $opt/$1 points to; nothing where there is none.
version_of() { if [ -L "$opt/$1" ]; then basename "$(readlink "$opt/$1")"; fi; }

# Every unit of ours in one of the states $1.
services() {
    booted || return 0
    systemctl list-units --plain --no-legend --state="$1" 'monitor.service' 'monitor@*.service' | awk '{ print $1 }'
}

# Two at once would pull the ground from under each other's feet.
lock() {
    [ -z "$root" ] || return 0
    exec 9>/run/lock/monitor-install
    flock --nonblock 9 || fail "another install.sh is at work"
}

# -- program -----------------------------------------------------------------------------------------------------------

make_user() {
    [ -z "$root" ] || return 0
    if ! getent passwd $user >/dev/null; then
        say "making the system user $user"
        useradd --system --user-group --no-create-home --home-dir /var/lib/monitor --shell /usr/sbin/nologin $user
    elif [ "$(id -u $user)" -ge 1000 ]; then
        fail "there is a person's account called $user; the service needs a system account of this name"
    fi
}

check_python() {
    command -v "$python" >/dev/null || fail "$python: not found; Debian: apt install python3 python3-venv" $exit_usage
    "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$python is $("$python" --version 2>&1); accepted: Python 3.11 to 3.13" $exit_usage
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv; Debian: apt install python3-venv" $exit_usage
}

# Sets $wheel and $version, "0.1.0-1a2b3c4d": the same program twice is the same version.
find_wheel() {
    if [ -z "$wheels" ] && [ -d "$here/wheels" ]; then
        wheels=$here/wheels
    fi
    local found build
    if [ -n "$wheels" ]; then
        found=("$wheels"/seismic_monitor-*.whl)
        [ -e "${found[0]}" ] || fail "$wheels has no seismic_monitor-*.whl" $exit_usage
        [ ${#found[@]} = 1 ] || fail "$wheels has ${#found[@]} versions; accepted: one" $exit_usage
    else
        [ -e "$here/../pyproject.toml" ] || fail "neither wheels nor a checkout are beside this script: --wheels DIR" $exit_usage
        say "building the program from $(cd "$here/.." && pwd)"
        find_pip
        # What it is built with is locked like what it runs with.
        "$python" -m venv --without-pip "$scratch/build"
        build=("${pip_command[@]}" --python "$scratch/build/bin/python")
        "${build[@]}" install --quiet --only-binary=:all: --require-hashes --requirement "$here/../requirements-build.lock"
        "${build[@]}" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch/wheel" "$here/.."
        found=("$scratch"/wheel/seismic_monitor-*.whl)
    fi
    wheel=${found[0]}
    version=$(basename "$wheel" | cut -d- -f2)-$(sha256sum "$wheel" | cut -c1-8)
    # The name becomes a folder's.
    [[ $version =~ ^[A-Za-z0-9.+!_]+-[0-9a-f]{8}$ ]] || fail "$wheel: an odd version"
}

# Sets $pip_command: this Python's own, or one for the moment. What is installed has none: nothing is added to it later.
find_pip() {
    [ ${#pip_command[@]} = 0 ] || return 0
    pip_command=("$python" -m pip --disable-pip-version-check)
    # --python came with 22.3.
    if ! "$python" -c 'import sys, pip; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (22, 3))' 2>/dev/null; then
        "$python" -m venv "$scratch/pip"
        pip_command=("$scratch/pip/bin/python" -m pip --disable-pip-version-check)
    fi
}

make_environment() {
    local to=$opt/versions/$version pip
    if [ -e "$to/.complete" ]; then
        if "$to/bin/monitor" model verify >/dev/null 2>&1; then
            say "version $version is installed already"
            return
        fi
        # As after an upgrade of Debian to another Python.
        say "version $version is installed and does not run any more: once more"
        changed=yes
    fi
    say "installing version $version into $to"
    rm -rf "$to"
    install -d -m 0755 "$opt" "$opt/versions"
    "$python" -m venv --without-pip "$to"
    find_pip
    pip=("${pip_command[@]}" --python "$to/bin/python" install --quiet --only-binary=:all: --no-compile)
    if [ -z "$wheels" ]; then
        "${pip[@]}" --require-hashes --requirement "$here/../requirements-edge.lock"
    elif [ -e "$wheels/requirements.lock" ]; then
        "${pip[@]}" --no-index --find-links "$wheels" --require-hashes --requirement "$wheels/requirements.lock"
    fi
    "${pip[@]}" --no-index ${wheels:+--find-links "$wheels"} "$wheel"
    # The service cannot write here, so that what Python would cache is made now.
    "$to/bin/python" -m compileall -q "$to/lib" >/dev/null || true
    install -d "$to/systemd"
    install -m 0644 "$unit_source"/monitor.service "$unit_source"/monitor@.service "$unit_source"/coral.conf "$to/systemd"
    if booted || [ -n "$root" ]; then
        "$to/bin/monitor" model verify >/dev/null || fail "the model does not run here; nothing was changed"
    fi
    touch "$to/.complete"
}

# What was before stays at hand for a rollback; older ones go.
forget_old_versions() {
    local folder name
    for folder in "$opt"/versions/*; do
        name=$(basename "$folder")
        if [ "$name" != "$(version_of current)" ] && [ "$name" != "$(version_of previous)" ]; then
            rm -rf "$folder"
        fi
    done
}

# Point the link $opt/$1 at version $2, all at once.
point() {
    ln -sfn "versions/$2" "$opt/$1.new"
    mv -T "$opt/$1.new" "$opt/$1"
}

# Copy a file where it differs from what is there; a service that runs has to be restarted then.
renew() {
    if ! cmp -s "$2" "$3"; then
        install -D -m "$1" "$2" "$3"
        changed=yes
    fi
}

# Make a version the current one, and take the units that came with it.
switch_to() {
    local unit
    if [ "$(version_of current)" != "$1" ]; then
        point current "$1"
        changed=yes
    fi
    install -d -m 0755 "$root/usr/local/bin"
    ln -sfn /opt/monitor/current/bin/monitor "$root/usr/local/bin/monitor"
    if [ $managed = no ]; then
        for unit in monitor.service monitor@.service; do
            renew 0644 "$opt/current/systemd/$unit" "$units/$unit"
        done
    fi
    if [ $coral = yes ]; then
        renew 0644 "$opt/current/systemd/coral.conf" "$units/$service.d/coral.conf"
    fi
    if booted; then
        systemctl daemon-reload
    fi
}

# -- settings and secrets ----------------------------------------------------------------------------------------------

ask() {
    local reply
    read -r -p "$1" reply || true
    printf '%s' "$reply"
}

ask_answers() {
    if [ $package = yes ] || [ ${#answers[@]} -gt 0 ] || [ ! -t 0 ]; then
        return
    elif [ -e "$settings" ] && ! settings_untouched; then
        return
    fi
    local reply
    reply=$(ask "SeedLink server, HOST or HOST:PORT (empty: write the settings by hand): ")
    [ -n "$reply" ] || return 0
    answers+=(--seedlink "$reply")
    for reply in $(ask "Stations there, such as AM.R1234 (several with spaces between): "); do
        answers+=(--station "$reply")
    done
    reply=$(ask "MQTT broker, HOST or HOST:PORT (empty: none): ")
    [ -n "$reply" ] || return 0
    answers+=(--mqtt "$reply")
    [[ $(ask "Encrypt (TLS)? [y/N] ") != [yY]* ]] || answers+=(--mqtt-tls)
    reply=$(ask "User name at the broker (empty: no login): ")
    [ -z "$reply" ] || answers+=(--mqtt-user "$reply")
}

# Fill the answers into the reference; standard output: the settings.
fill_in() {
    "$opt/versions/$version/bin/monitor" check --reference >"$scratch/reference.toml"
    "$python" - "$scratch/reference.toml" "$settings" "$instance" "${answers[@]}" <<'PYTHON'
import json
import re
import sys
import tomllib
from pathlib import Path

reference, settings, instance, *words = sys.argv[1:]
servers, mqtt, http, page = [], {}, {}, {}


def endpoint(text):
    """HOST, HOST:PORT, [V6]:PORT or V6."""
    found = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+):(\d+)", text)
    host, port = (found[1] or found[3], found[2] or found[4]) if found else (text, None)
    return {"host": host, **({"port": int(port)} if port else {})}


while words:
    flag = words.pop(0)
    if flag == "--seedlink":
        servers.append(endpoint(words.pop(0)))
    elif flag == "--station":
        servers[-1].setdefault("stations", []).append(words.pop(0))
    elif flag == "--seedlink-tls":
        servers[-1]["tls"] = True
    elif flag == "--seedlink-user":
        servers[-1] |= {"user": words.pop(0), "password_file": "seedlink-password"}
    elif flag == "--mqtt":
        mqtt |= endpoint(words.pop(0))
    elif flag == "--mqtt-tls":
        mqtt["tls"] = True
    elif flag == "--mqtt-ca":
        mqtt["ca_file"] = "ca.pem"
        words.pop(0)
    elif flag == "--mqtt-user":
        mqtt |= {"user": words.pop(0), "password_file": "mqtt-password"}
    elif flag == "--http-port":
        http["port"] = int(words.pop(0))
    elif flag == "--page-port":
        page["port"] = int(words.pop(0))
    elif flag == "--page-listen":
        page["listen"] = words.pop(0)
    elif flag == "--page-user":
        page |= {"user": words.pop(0), "password_file": "page-password"}
for server in servers:
    server.setdefault("stations", ["*.*"])
if mqtt and instance:
    # Two clients of one name would throw each other out of the broker.
    mqtt["client_id"] = f"monitor-{instance}"

# Ports that nobody chose are those which no other monitor of this computer has.
DEFAULTS = {"http": 9464, "page": 9465}
taken = {values["port"] for values in (http, page) if "port" in values}
for other in Path(settings).parent.glob("*.toml"):
    if other != Path(settings):
        try:
            told = tomllib.loads(other.read_text())
        except ValueError:
            continue
        taken |= {told.get(section, {}).get("port", port) for section, port in DEFAULTS.items()}
for section, port in DEFAULTS.items():
    values = {"http": http, "page": page}[section]
    if servers and "port" not in values:
        free = next(number for number in range(port, port + 1000) if number not in taken)
        taken.add(free)
        if free != port:
            values["port"] = free


def line(key, value):
    return f"{key} = {json.dumps(value, ensure_ascii=False)}"


wanted = {"mqtt": mqtt, "http": http, "page": page, "seedlink": servers[0] if servers else {}}
rest = {name: dict(values) for name, values in wanted.items()}
section, out = "", []
for text in Path(reference).read_text().splitlines():
    header = re.fullmatch(r"#?\[\[?(\w+)\]?\]", text)
    key = re.match(r"#(\w+) = ", text)
    if header:
        section = header[1]
        out.append(text.lstrip("#") if rest.get(section) else text)
    elif key and key[1] in rest.get(section, {}):
        out.append(line(key[1], rest[section].pop(key[1])))
    else:
        out.append(text)
for server in servers[1:]:
    out += ["", "", "[[seedlink]]", *(line(*item) for item in server.items())]
missing = [f"[{name}] {key}" for name, values in rest.items() for key in values]
if missing:
    sys.exit(f"install.sh: the reference has no {', '.join(missing)}")
print("\n".join(out))
PYTHON
}

# Nobody has written anything into the reference that an installation without answers left there.
settings_untouched() {
    [ -e "$settings" ] && "$opt/versions/$version/bin/monitor" check --reference | cmp -s - "$settings"
}

make_settings() {
    [ $package = no ] || return 0
    if [ -e "$settings" ] && ! settings_untouched; then
        [ ${#answers[@]} = 0 ] ||
            say "$settings is there and stays as it is; the answers given are not used: edit it, or delete it first"
        return
    fi
    say "writing $settings"
    install -d -m 0755 "$etc"
    fill_in >"$scratch/settings.toml"
    local i
    for ((i = 0; i < ${#answers[@]}; i++)); do
        if [ "${answers[i]}" = --mqtt-ca ]; then
            install -m 0644 "${answers[i + 1]}" "$etc/ca.pem"
        fi
    done
    renew 0644 "$scratch/settings.toml" "$settings"
}

# A password that the answers make necessary, and that nobody gave, is asked for.
store_secrets() {
    local name reply
    for name in mqtt-password:--mqtt-user seedlink-password:--seedlink-user page-password:--page-user; do
        if [[ " ${answers[*]-} " == *" ${name#*:} "* ]] && [ -z "${secret_files[${name%:*}]-}" ] &&
            [ ! -e "$credstore/$state_name.${name%:*}" ] && [ -t 0 ]; then
            read -r -s -p "Password for ${name%-password:*} (not shown): " reply
            say ""
            (umask 077 && printf '%s\n' "$reply" >"$scratch/${name%:*}")
            secret_files[${name%:*}]=$scratch/${name%:*}
        fi
    done
    [ ${#secret_files[@]} -gt 0 ] || return 0
    install -d -m 0700 "$credstore"
    for name in "${!secret_files[@]}"; do
        renew 0600 "${secret_files[$name]}" "$credstore/$state_name.$name"
    done
}

# Run a command as the service would: its user, its state directory, its secrets, those of drop-ins included.
as_service() {
    local line arguments=() unit=$opt/versions/$version/systemd/monitor${instance:+@}.service
    while read -r line; do
        arguments+=(-p "${line//%i/$instance}")
    done < <(cat "$unit" "$units/monitor${instance:+@}.service.d"/*.conf ${instance:+"$units/$service.d"/*.conf} 2>/dev/null |
        grep -E '^(User|Group|SupplementaryGroups|StateDirectory(Mode)?|(Load|Set)Credential(Encrypted)?|Environment(File)?)=.')
    systemd-run --quiet --pipe --wait --collect "${arguments[@]}" "$@" </dev/null
}

# -- start, and see whether it stays up --------------------------------------------------------------------------------

property() { systemctl show --property="$2" --value "$1"; }

# Up means: it said READY, and some seconds later it is the same process.
comes_up() {
    local deadline=$((SECONDS + wait_s)) pid="" since=0
    while [ $SECONDS -lt $deadline ]; do
        case $(property "$1" ActiveState) in
        failed) return 1 ;;
        active)
            if [ "$(property "$1" MainPID)" != "$pid" ]; then
                pid=$(property "$1" MainPID) since=$SECONDS
            elif [ $((SECONDS - since)) -ge 5 ]; then
                return 0
            fi
            ;;
        esac
        # Once is bad luck (a port still in use), thrice is a fault.
        [ "$(property "$1" NRestarts)" -lt 3 ] || return 1
        sleep 0.5
    done
    return 1
}

start_all() {
    local unit
    for unit in "$@"; do
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart --no-block "$unit"
    done
    for unit in "$@"; do
        if ! comes_up "$unit"; then
            say "$unit does not come up; its last words:" >&2
            journalctl --unit "$unit" --lines 15 --no-pager --output cat >&2 || true
            return 1
        fi
        say "$unit runs: $(property "$unit" StatusText)"
    done
}

go_back_to() {
    say "going back to version $1" >&2
    switch_to "$1"
    shift
    [ $# = 0 ] || start_all "$@" || fail "version $(version_of current) does not come up either"
}

# -- the three actions -------------------------------------------------------------------------------------------------

install_all() {
    local before upgrade_only=no is_new=no code=0
    check_python
    lock
    find_wheel
    before=$(version_of current)
    make_user
    make_environment
    if [ ${#answers[@]} = 0 ] && [ -z "$instance" ] && [ ! -e "$settings" ] && compgen -G "$etc/*.toml" >/dev/null; then
        # Here are only services with a name; one without was never asked for.
        upgrade_only=yes
    elif [ $package = no ]; then
        ask_answers
        [ -e "$settings" ] && ! settings_untouched || is_new=yes
        make_settings
        store_secrets
    elif [ ! -e "$settings" ] || settings_untouched; then
        upgrade_only=yes
    fi
    if [ $upgrade_only = no ] && { [ $is_new = no ] || [ ${#answers[@]} -gt 0 ]; }; then
        check_settings
    fi
    # What does not run now is no measure of the new version.
    local to_start=() failed_before=()
    mapfile -t to_start < <(services active,activating,reloading)
    mapfile -t failed_before < <(services failed)
    switch_to "$version"
    if [ "$before" = "$version" ]; then
        to_start=() failed_before=()
    fi
    if [ $upgrade_only = yes ] || [ $package = yes ]; then
        : # What was not running stays so.
    elif [ $is_new = yes ] && [ ${#answers[@]} = 0 ]; then
        say "installed. What is missing is what to listen to: the options of $0 --help, or"
        say "write it into $settings and: systemctl enable --now $service"
    else
        [ -n "$root" ] || systemctl --quiet enable "$service"
        if ! booted || [[ " ${to_start[*]-} " == *" $service "* ]]; then
            :
        elif [ $changed = no ] && systemctl --quiet is-active "$service"; then
            say "$service runs already: $(property "$service" StatusText)"
        else
            to_start+=("$service")
        fi
    fi
    if booted && [ $start = yes ]; then
        start_or_go_back
        [ $upgrade_only = yes ] || [ $package = yes ] || { [ $is_new = yes ] && [ ${#answers[@]} = 0 ]; } ||
            as_service "$opt/current/bin/monitor" check "$settings" --connect --running || code=$?
    fi
    if [ -n "$before" ] && [ "$before" != "$version" ]; then
        point previous "$before"
    fi
    forget_old_versions
    [ $code = 0 ] || fail "installed and running, but not everything answers; see above" $exit_no_answer
    say "done: version $version"
}

# Start what has to be started; where the new version does not come up, the one before takes its place again.
start_or_go_back() {
    local unit
    for unit in "${failed_before[@]}"; do
        [[ " ${to_start[*]-} " == *" $unit "* ]] || systemctl restart --no-block "$unit"
    done
    if [ ${#to_start[@]} = 0 ] || start_all "${to_start[@]}"; then
        return
    fi
    if [ -z "$before" ] || [ "$before" = "$version" ]; then
        fail "version $version does not come up"
    fi
    go_back_to "$before" "${to_start[@]}"
    rm -rf "$opt/versions/$version"
    fail "version $version does not come up; version $before runs again"
}

# Before anything is switched: does the new version accept the settings that are there?
check_settings() {
    local code=0 said
    if booted; then
        said=$(as_service "$opt/versions/$version/bin/monitor" check "$settings" 2>&1) || code=$?
    else
        said=$("$opt/versions/$version/bin/monitor" check "$settings" 2>&1) || code=$?
    fi
    # It is said again, with what answers, when the service runs.
    [ $code = 0 ] && booted && [ $start = yes ] || printf '%s\n' "$said"
    [ $code = 0 ] || fail "version $version does not accept $settings; nothing was switched" $exit_usage
}

roll_back() {
    local before
    lock
    before=$(version_of current)
    version=$(version_of previous)
    [ -n "$version" ] || fail "there is no other version to go back to"
    local to_start=()
    mapfile -t to_start < <(services active,activating,reloading,failed)
    go_back_to "$version" "${to_start[@]}"
    point previous "$before"
    say "done: version $version"
}

uninstall() {
    local unit instances=()
    lock
    if booted; then
        mapfile -t instances < <(systemctl list-units --all --plain --no-legend 'monitor.service' 'monitor@*.service' | awk '{ print $1 }')
        for unit in "${instances[@]}"; do
            systemctl disable --now --quiet "$unit" 2>/dev/null || systemctl stop "$unit" || true
        done
    fi
    rm -f "$units"/multi-user.target.wants/monitor.service "$units"/multi-user.target.wants/monitor@*.service
    rm -f "$units"/monitor.service "$units"/monitor@.service
    rm -f "$units"/monitor.service.d/coral.conf "$units"/monitor@*.service.d/coral.conf
    find "$units" -maxdepth 1 -name 'monitor*.service.d' -empty -delete 2>/dev/null || true
    rm -rf "$opt"
    if [ "$(readlink "$root/usr/local/bin/monitor" || true)" = /opt/monitor/current/bin/monitor ]; then
        rm -f "$root/usr/local/bin/monitor"
    fi
    if booted; then
        systemctl daemon-reload
        systemctl reset-failed 'monitor.service' 'monitor@*.service' 2>/dev/null || true
    fi
    if [ $purge = yes ]; then
        rm -rf "$etc" "$root"/var/lib/monitor "$root"/var/lib/monitor-* "$credstore"/monitor.* "$credstore"/monitor-*.*
        rm -rf "$units"/monitor.service.d "$units"/monitor@*.service.d
        # Of later systemd's own folders it is one.
        grep -qs " /etc/credstore " "$root/usr/lib/tmpfiles.d/credstore.conf" ||
            rmdir --ignore-fail-on-non-empty "$credstore" 2>/dev/null || true
        [ -n "$root" ] || ! getent passwd $user >/dev/null || userdel $user
        say "removed, with settings, secrets and state"
    else
        say "removed; $etc, $credstore/monitor* and $root/var/lib/monitor* are kept (--purge removes them)"
    fi
}

main() {
    read_arguments "$@"
    name_places
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "needs root: sudo $0 $*"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    umask 022
    case $action in
    install) install_all ;;
    rollback) roll_back ;;
    uninstall) uninstall ;;
    esac
}

main "$@"
