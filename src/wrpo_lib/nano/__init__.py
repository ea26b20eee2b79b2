"""The nano testbed: a controlled world in which the mechanism of the paper can be measured."""
