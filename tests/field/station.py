"""What a field test needs besides a Debian: wheels of several versions, a seismometer, a broker, a listener."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.field.debian import CHECKOUT, cache
from tests.field.machine import Machine

PASSWORD = "correct horse, battery staple"  # blanks and commas are what passwords have

_MOSQUITTO = """
listener 1883 127.0.0.1
allow_anonymous false
password_file /etc/mosquitto/passwords
"""

_SEISMOMETER = """
[Unit]
Description=A seismometer, for tests
[Service]
ExecStart=/srv/seismometer/bin/python -m monitor.cli serve /srv/recording.mseed --now --loop --preload 60
Restart=always
[Install]
WantedBy=multi-user.target
"""

_HEARER = f"""
[Unit]
Description=Somebody who listens to all that is published
After=mosquitto.service
[Service]
ExecStart=/usr/bin/mosquitto_sub -h localhost -u listener -P "{PASSWORD}" -i hearer -c -q 1 -t # -F "%%t\\t%%p"
StandardOutput=append:/var/log/heard
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""


def wheelhouse() -> Path:
    """All wheels for the Pythons of the supported Debians; made where the program or its lock is newer."""
    folder = cache() / "wheels"
    lock = (CHECKOUT / "requirements-edge.lock").read_bytes()
    made_from = folder / "requirements.lock"
    script = CHECKOUT / "deploy/wheels.sh"
    if not made_from.exists() or made_from.read_bytes() != lock:
        subprocess.run([script, folder], check=True, env={**os.environ, "PYTHON": sys.executable})
        return folder
    # Only the program itself.
    for wheel in folder.glob("seismic_monitor-*.whl"):
        wheel.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, CHECKOUT], check=True)
    return folder


def other_version(wheels: Path, to: Path, version: str, *, add: dict[str, str] | None = None) -> Path:
    """Copy a wheelhouse with the program under another version.

    Args:
        wheels: The wheelhouse.
        to: The new folder, on the same file system.
        version: Its version.
        add: File of the program -> Python that is put at its end.
    """
    shutil.copytree(wheels, to, copy_function=os.link)
    (old,) = to.glob("seismic_monitor-*.whl")
    _, before, *_ = old.name.split("-")
    rows = []
    new = to / old.name.replace(f"-{before}-", f"-{version}-")
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".dist-info/RECORD"):
                continue
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {before}\n".encode(), f"\nVersion: {version}\n".encode())
            content += (add or {}).get(name, "").encode()
            path = name.replace(f"-{before}.dist-info/", f"-{version}.dist-info/")
            target.writestr(path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(content)}\n")
        record = f"seismic_monitor-{version}.dist-info/RECORD"
        target.writestr(record, "".join(rows) + f"{record},,\n")
    old.unlink()
    return to


def build_wheels() -> Path:
    """What the program is built with, as wheels."""
    folder = cache() / "build-wheels"
    lock = CHECKOUT / "requirements-build.lock"
    if not (folder / lock.name).exists() or (folder / lock.name).read_bytes() != lock.read_bytes():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--require-hashes"]
        subprocess.run([*command, "--dest", folder, "--requirement", lock], check=True)
        shutil.copy2(lock, folder)
    return folder


def recording(to: Path, stations: Mapping[str, str]) -> None:
    """Write 90 s of four stations with one earthquake, from those that ObsPy ships.

    Args:
        to: A miniSEED file.
        stations: What some of the stations are called instead, such as UH1 -> "AM.R1234".
    """
    import numpy as np
    import obspy

    stream = obspy.Stream()
    for path in sorted((Path(obspy.__file__).parent / "signal/tests/data").glob("BW.UH*.cut.slist.gz")):
        stream += obspy.read(str(path))
    assert len(stream) == 6
    begin = obspy.UTCDateTime("2010-05-27T16:24:04")
    stream.trim(begin, begin + 90)
    for trace in stream:
        trace.data = np.rint(trace.data).astype(np.int32)
        if trace.stats.station in stations:
            trace.stats.network, trace.stats.station = stations[trace.stats.station].split(".")
    stream.write(str(to), format="MSEED", encoding="STEIM2", reclen=512)


def copy_checkout(to: Path) -> None:
    """Copy the project's files, as a checkout has them."""
    command = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0"):
        source = CHECKOUT / name
        if name and source.is_file():
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def furnish(root: Path, wheels: Path, *, stations: Mapping[str, str] = MappingProxyType({})) -> None:
    """Put what surrounds a monitor into a root: wheels, checkout, recording, broker's settings, units.

    Args:
        root: The root.
        wheels: A wheelhouse.
        stations: As in `recording`.
    """
    copy_checkout(root / "root/seismic-monitor")
    shutil.copytree(wheels, root / "root/wheels")
    recording(root / "srv/recording.mseed", stations)
    (root / "etc/mosquitto/conf.d/station.conf").write_text(_MOSQUITTO)
    (root / "root/mqtt-password").write_text(f"{PASSWORD}\n")
    (root / "root/mqtt-password").chmod(0o600)
    (root / "etc/systemd/system/seismometer.service").write_text(_SEISMOMETER)
    (root / "etc/systemd/system/hearer.service").write_text(_HEARER)


def start_surroundings(machine: Machine) -> None:
    """Start seismometer, broker and listener, for every boot from now on."""
    for name in ("station", "north", "listener"):
        new = () if name != "station" else ("-c",)
        machine("mosquitto_passwd", *new, "-b", "/etc/mosquitto/passwords", name, PASSWORD)
    machine("chown", "mosquitto:", "/etc/mosquitto/passwords")
    # Without the passwords it has been failing since the computer was started.
    machine("systemctl", "reset-failed", "mosquitto", check=False)
    machine("systemctl", "restart", "mosquitto")
    # The seismometer is a computer of its own: it has its own copy of the program.
    machine("python3", "-m", "venv", "/srv/seismometer")
    pip = ["/srv/seismometer/bin/pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    machine(*pip, "--find-links=/root/wheels", "seismic-monitor")
    machine("systemctl", "enable", "--now", "--quiet", "seismometer", "hearer")


def heard(machine: Machine, root_topic: str = "monitor/v1") -> list[dict[str, Any]]:
    """All detections that were published below a topic, in order."""
    path = machine.path("/var/log/heard")
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        topic, _, body = line.partition("\t")
        if topic.startswith(f"{root_topic}/") and topic.endswith("/detection"):
            found.append(json.loads(body))
    return found


def finals(machine: Machine, root_topic: str = "monitor/v1") -> dict[str, dict[str, Any]]:
    """By id, the last revision of what is final."""
    return {d["id"]: d for d in heard(machine, root_topic) if d["state"] == "final"}
