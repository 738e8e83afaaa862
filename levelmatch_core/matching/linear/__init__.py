"""Linear algebra: normal equations, sparse Cholesky factorisation, fill-reducing ordering."""
