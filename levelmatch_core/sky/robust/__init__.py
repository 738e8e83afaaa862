"""Statistics that wild values do not affect: clipping about the median."""
