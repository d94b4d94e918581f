"""From a velocity field and packed data to counts, and from counts to the tables' numbers."""
