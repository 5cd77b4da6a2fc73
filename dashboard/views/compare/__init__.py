"""Compare: any two runs side by side, what differs first."""
