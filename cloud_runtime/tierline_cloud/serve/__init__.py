"""Cloud serving: the full torch models behind the same front and wire as the edge."""
