"""Where a viewer begins."""
