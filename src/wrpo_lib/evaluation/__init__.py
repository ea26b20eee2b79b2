"""The three benchmarks of the paper, from questions to scores with intervals."""
