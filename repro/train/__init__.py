"""Training: one loop, the recipe, random streams, masks, evaluation."""
