"""`monitor run`: the service."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from monitor.clock import HostClock
from monitor.commands.common import EXIT_FAILED, EXIT_MODEL, EXIT_TEMPORARY, EXIT_USAGE, DeviceOption, fail
from monitor.config import ConfigError, read_settings, state_directory
from monitor.logs import Redaction, set_up
from monitor.model import Model, ModelError
from monitor.sdnotify import Notifier
from monitor.settings import Settings
from monitor.state import StateError, read_state
from monitor.thresholds import ThresholdError, threshold_for

log = logging.getLogger("monitor")


def run(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="TOML", help="Settings file; see `monitor check --reference`."),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Listen to seismometers and say when there is an earthquake: the service.

    Data come in over SeedLink; detections go out over MQTT, metrics to Prometheus. Stops in order on SIGTERM or Ctrl-C,
    reads its settings again on SIGHUP. Exit codes: 0 stopped, 1 failed, 2 settings, 3 model refused, 75 try again.
    """
    # Its dependencies are no replay's.
    from monitor.daemon import Parts, Service  # noqa: PLC0415
    from monitor.metrics import Metrics  # noqa: PLC0415
    from monitor.outbox import OutboxBusyError  # noqa: PLC0415

    try:
        settings = read_settings(config)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    metrics = Metrics()
    redaction = Redaction()
    set_up(settings.log, redaction=redaction, on_record=metrics.log)
    try:
        path = None if settings.model.path is None else Path(settings.model.path)
        model = Model(path, device=device or settings.model.device)
        differences = model.verify()
        if differences:
            raise ModelError(f"{model.path}: {'; '.join(differences)}")
        threshold_for(settings.detector, model.metadata)
    except ModelError as error:
        fail(str(error), EXIT_MODEL)
    except ThresholdError as error:
        fail(f"{config or 'settings'}: [detector] {error}", EXIT_USAGE)
    if not settings.seedlink:
        fail(f"{config or 'settings'}: no [[seedlink]] server is set; accepted: at least one", EXIT_USAGE)
    directory = state_directory(settings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"[state] directory {directory}: cannot be made: {error.strerror}", EXIT_FAILED)
    saved = None
    try:
        saved = read_state(directory)
    except StateError as error:
        log.error("%s", error)

    def reload() -> Settings | None:
        try:
            again = read_settings(config)
            threshold_for(again.detector, model.metadata)
        except (ConfigError, ThresholdError) as error:
            log.error("%s", error)
            return None
        set_up(again.log, redaction=redaction, on_record=metrics.log)
        return again

    async def serve() -> None:
        parts = Parts(
            settings=settings,
            model=model,
            clock=HostClock(),
            directory=directory,
            saved=saved,
            metrics=metrics,
            notifier=Notifier.from_environment(),
            reload=reload,
        )
        await Service(parts).run()

    try:
        asyncio.run(serve())
    except OutboxBusyError as error:
        fail(str(error), EXIT_TEMPORARY)
    except OSError as error:
        if settings.http.port is None or error.strerror is None:
            raise
        where = f"{settings.http.listen}:{settings.http.port}"
        fail(f"[http] cannot listen on {where}: {error.strerror}", EXIT_TEMPORARY)
