"""One tensor: its histogram, its range, its grid and its codes."""
