"""Products with int8 weights on a CPU, by loops that numba compiles and XLA calls from inside its programs."""
