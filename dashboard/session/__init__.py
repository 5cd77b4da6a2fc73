"""What one viewer sees and does: the run shown, the draft, the jobs watched."""
