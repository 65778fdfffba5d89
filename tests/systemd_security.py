"""What `systemd-analyze security` says, as a number."""

import re

# Room for what a host adds, well below the 2.0 that counts as good.
MOST_EXPOSURE = 1.9


def exposure(said: str) -> float:
    """The overall exposure level, 0 to 10; less is better."""
    found = re.search(r"Overall exposure level.*: ([0-9.]+)", said)
    assert found, said
    return float(found[1])
