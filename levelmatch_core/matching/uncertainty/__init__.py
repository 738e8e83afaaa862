"""Error propagation: from the noise of pairs and exposures to the errors of the corrections."""
