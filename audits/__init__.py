"""Statistics, oracle tests, canaries, battery and verdict: where scores become statements."""
