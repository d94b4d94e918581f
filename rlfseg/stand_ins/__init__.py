"""What stands in for outside weights: the mini models' recipes, and full-size random models."""
