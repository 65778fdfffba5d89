"""Who looks on while pipelines work: the station page, say. What it does changes no result."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from monitor.spectrogram import F32, Bool

if TYPE_CHECKING:
    from monitor.pipeline import StationPipeline


class Observer(Protocol):
    """Told what a pipeline computes as it does, in its thread; must be quick, and keeps copies of what it keeps."""

    def saw_frames(
        self, pipeline: "StationPipeline", first_frame: int, frames: npt.NDArray[np.int8], judged: Bool
    ) -> None:
        """Frames were computed.

        Args:
            pipeline: Whose; its rings hold the samples.
            first_frame: Absolute index of the first one.
            frames: Quantised, by component Z N E [shape=(n, n_freq, 3)].
            judged: Which components are judged [shape=(n, 3)].
        """

    def saw_outputs(self, pipeline: "StationPipeline", first_step: int, probabilities: F32, judged: Bool) -> None:
        """The model spoke.

        Args:
            pipeline: Whose.
            first_step: Absolute index of the first output.
            probabilities: Earthquake, P and S [shape=(n, 3)].
            judged: Which outputs mean anything [shape=(n,)].
        """
