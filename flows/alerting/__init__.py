"""What hears of the ends of runs from Prefect's server, and tells it to people."""
