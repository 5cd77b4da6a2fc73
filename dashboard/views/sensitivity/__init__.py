"""Which layers matter, and how surely."""
