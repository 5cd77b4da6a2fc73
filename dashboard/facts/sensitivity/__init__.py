"""What the pages say about sensitivity: metrics, rankings and ties, proxy metrics."""
