"""Set up a run and see what it found."""
