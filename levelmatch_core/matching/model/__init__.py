"""The model of a component: unknowns, design matrix, weights and constraints (equations in matching/MODEL.md)."""
