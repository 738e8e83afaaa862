"""What a file holds: which of its HDUs are exposures, and of which band each is."""
