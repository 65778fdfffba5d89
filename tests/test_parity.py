"""How benchmarks/parity_arm64.py tells rounding from a detection that only one of two processors has."""

from typing import Any

from benchmarks.parity_arm64 import by_a_step, differences, furthest, pairs


def detection(onset: str, probability: float, **more: Any) -> dict[str, Any]:
    given = {"id": f"XX.A-{onset}", "state": "final", "seed_ids": ["XX.A..HHZ"], "reason": {"threshold": 0.9}}
    return {**given, "onset": f"2024-05-06T07:08:{onset}Z", "probability": probability, **more}


def test_rounding_is_no_difference() -> None:
    ours = [detection("09.000000", 0.95), detection("30.000000", 0.902), detection("09.000000", 0.9, state="new")]
    theirs = [detection("09.010000", 0.951, id="decided elsewhere")]
    assert differences(ours, theirs) == []
    assert differences(theirs, ours) == []
    assert abs(furthest(ours, theirs) - 0.001) < 1e-9
    assert by_a_step(ours, theirs).startswith("0 of 1 detections are the same to the last digit, 0 have the same id")
    assert by_a_step(ours, ours) == "2 of 2 detections are the same to the last digit."


def test_what_only_one_has_is_told() -> None:
    sure, early = detection("09.000000", 0.95), detection("08.800000", 0.95)
    assert [line.split(":")[0] for line in differences([sure], [])] == ["only native"]
    assert [line.split(":")[0] for line in differences([sure], [early])] == ["only arm64", "only native"]
    other = detection("09.000000", 0.95, seed_ids=["XX.B..HHZ"])
    assert len(differences([sure], [other])) == 2
    assert pairs([sure], [early, sure]) == [(sure, sure), (None, early)]
