"""Jobs: their common interface, the jobs of the computation, and the jobs that write its results."""
