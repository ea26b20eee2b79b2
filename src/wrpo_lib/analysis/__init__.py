"""Statistics with intervals, the distribution deviation, and the training dynamics."""
