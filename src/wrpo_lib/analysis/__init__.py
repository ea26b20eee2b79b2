"""Statistics with intervals, agreement of judges, and every number that the book shows."""
