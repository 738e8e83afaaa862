"""The common grid: pixel maps, masks, cutouts and their store, stacks and mosaics."""
