"""Which programs the tests start, and the Debian package that brings each.

The one place for both: the marker `needs` looks here, and so does .ci/run, before anything is installed, so this
module imports nothing but the standard library.
"""

import os
import shutil

# Program as a test names it -> Debian package.
PROGRAMS: dict[str, str] = {
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "mosquitto_sub": "mosquitto-clients",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "promtool": "prometheus",
    "jq": "jq",
    "openssl": "openssl",
    "shellcheck": "shellcheck",
    "strace": "strace",
    "systemd-analyze": "systemd",
}

# Debian puts servers where the PATH of an ordinary user does not look.
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> str | None:
    """Find a program on PATH or where Debian puts servers.

    Args:
        name: A name without a folder, such as "mosquitto".

    Returns:
        Its full path, None where it is not installed.
    """
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_FOLDERS]))


if __name__ == "__main__":
    # The packages still to be installed on this machine, for .ci/run.
    print(*sorted({package for program, package in PROGRAMS.items() if find_program(program) is None}))
