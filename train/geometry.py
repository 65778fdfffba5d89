"""How the networks lie on the time axis: what one output needs and of which moment it speaks."""

from train.settings import TIME_STRIDE, Settings

REFERENCE_FRAMES = 64
KERNEL = 3


def context_frames(settings: Settings) -> int:
    """Frames before the last one that an output of the network needs."""
    if settings.network.name == "reference":
        return REFERENCE_FRAMES - 1
    of_branch = 2 * (KERNEL - 1) + (KERNEL - 1) * TIME_STRIDE * sum(settings.network.dilations)
    return of_branch + TIME_STRIDE * later_outputs(settings)


def output_stride(settings: Settings) -> int:
    """Frames from output to output."""
    return settings.spectrogram.block if settings.network.name == "reference" else TIME_STRIDE


def later_outputs(settings: Settings) -> int:
    """How many outputs later all branches together speak of what the others spoke of alone."""
    return round(settings.network.later_s / settings.spectrogram.frame_interval_s / TIME_STRIDE)


def look_ahead_frames(settings: Settings) -> int:
    """Frames after the one that an output speaks of, down to the last that it needs."""
    if settings.network.name == "reference":
        return REFERENCE_FRAMES // 2
    return round(settings.network.look_ahead_s / settings.spectrogram.frame_interval_s)
