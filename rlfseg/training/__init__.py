"""One training loop, its checkpoints and steps, and the rectified flow that it steps on."""
