"""What every test shares: the plugin that leaves tests out by name, and how Hypothesis searches."""

import os

from hypothesis import settings

pytest_plugins = ["pytester", "tests.left_out"]

# No deadline anywhere: the first call of a kernel or an import on a busy machine is slow without being wrong.
# In CI the same examples every time: a red run is the change's fault, never luck's.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")
