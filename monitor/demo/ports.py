"""Where things listen: as asked, as usual where that is free, else anywhere."""

import socket
from typing import NamedTuple

# The daemon's own default: what a person tries first.
_METRICS = 9464


class PortTakenError(Exception):
    """A port that was asked for cannot be used; the message names the option."""


class Ports(NamedTuple):
    """Ports on loopback; that of SeedLink the server chooses itself unless asked for."""

    page: int
    metrics: int
    mqtt: int
    seedlink: int


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Can this address be listened on?"""
    with socket.socket() as probe:
        # As servers do: what is left of closed connections does not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def choose(
    *,
    page: int | None,
    metrics: int | None,
    mqtt: int | None,
    seedlink: int | None,
    page_host: str = "127.0.0.1",
    usual_page: int = 0,
) -> Ports:
    """Choose ports that nobody listens on.

    Args:
        page: As asked for; None: any.
        metrics: Likewise.
        mqtt: Likewise.
        seedlink: Likewise.
        page_host: Address of the page; the others are on loopback.
        usual_page: What the page has by default; taken where it is free.

    Raises:
        PortTakenError: One that was asked for cannot be listened on.
    """
    asked = {"--page-port": page, "--metrics-port": metrics, "--mqtt-port": mqtt, "--seedlink-port": seedlink}
    for option, port in asked.items():
        if port is not None and not is_free(port, page_host if option == "--page-port" else "127.0.0.1"):
            raise PortTakenError(
                f"{option} {port}: something listens there already, or may not; without the option a free one is taken"
            )
    taken = {port for port in asked.values() if port}

    def chosen(port: int | None, usual: int = 0) -> int:
        if port is not None:
            return port
        found = usual if usual and usual not in taken and is_free(usual) else _any_free(taken)
        taken.add(found)
        return found

    return Ports(
        page=chosen(page, usual_page), metrics=chosen(metrics, _METRICS), mqtt=chosen(mqtt), seedlink=seedlink or 0
    )


def _any_free(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
