"""What comes in: exposures, instruments, and how files become tiles and fields."""
