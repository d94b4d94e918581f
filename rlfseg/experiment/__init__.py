"""A `Run`, what is trained on what, and the verbs that make or find what comes of it."""
