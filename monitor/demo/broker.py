"""An MQTT broker within this process, on loopback. The only importer of amqtt (extra `[demo]`)."""

import asyncio
import contextlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

# Connections that do not end are left to the end of the process.
_GOODBYE_S = 5.0


class BrokerUnavailableError(Exception):
    """There is no broker to start; the message is for a person."""


def require_amqtt() -> None:
    """Find out whether a broker can be started.

    Raises:
        BrokerUnavailableError: The extra is not installed.
    """
    if importlib.util.find_spec("amqtt") is None:
        raise BrokerUnavailableError("the demo needs a broker: pip install 'seismic-monitor[demo]'")


@contextlib.asynccontextmanager
async def running_broker(port: int, *, log: Path) -> AsyncIterator[None]:
    """Run a broker for anybody on this computer.

    Args:
        port: On 127.0.0.1.
        log: Where its libraries log, rather than on the terminal.

    Raises:
        OSError: The port cannot be used.
    """
    # Half a second of loading, for the demo alone.
    from amqtt.broker import Broker  # type: ignore[import-untyped]  # noqa: PLC0415
    from amqtt.contexts import BrokerConfig, ListenerConfig  # type: ignore[import-untyped]  # noqa: PLC0415
    from amqtt.errors import BrokerError  # type: ignore[import-untyped]  # noqa: PLC0415

    broker = Broker(
        BrokerConfig(
            listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
            plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        )
    )
    with _logged(log):
        try:
            await broker.start()
        except BrokerError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from error
            raise
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await broker.shutdown()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path)
    loggers = [logging.getLogger(name) for name in ("amqtt", "transitions")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
        handler.close()
