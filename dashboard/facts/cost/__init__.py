"""What the pages say about times: executions, layers, verdicts."""
