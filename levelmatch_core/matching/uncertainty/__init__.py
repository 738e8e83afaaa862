"""Error propagation: from the noise of pairs and exposures to that of levels."""
