"""Linear algebra: normal equations, sparse Cholesky, ordering."""
