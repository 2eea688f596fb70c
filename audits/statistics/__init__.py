"""Arrays in, typed numbers out: curves, tests, intervals and bounds, on numpy and scipy alone."""
