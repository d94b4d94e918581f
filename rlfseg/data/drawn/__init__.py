"""The mini world: drawn scenes whose truth is known, written in the data sets' own formats."""
