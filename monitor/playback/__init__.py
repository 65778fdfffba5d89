"""A SeedLink server, versions 3 and 4, that plays recordings: for demos, for training operators and for tests."""
