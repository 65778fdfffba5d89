"""The fault suite: what is promised, broken on purpose. `make chaos` runs it, `tests/test_chaos.py` a short part."""
