"""The live demo: a SeedLink server, a broker and a subscriber around the real daemon, on one computer."""
