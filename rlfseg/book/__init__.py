"""What the book shows: the paper's tables beside a run's, and figures."""
