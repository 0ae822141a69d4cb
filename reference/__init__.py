"""Backpropagation in plain NumPy, written to be read: the oracle of the suites."""
