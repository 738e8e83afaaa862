"""The model of a component: unknowns, design matrix, weights, constraints."""
