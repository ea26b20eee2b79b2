"""Training on CPU in float32: the same numbers in less time and memory.

For small models and for this book, whose own runs have no GPU. On a GPU torch's and Liger's kernels
do this work, and nothing here is used.
"""
