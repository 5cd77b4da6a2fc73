"""How far values lie from what they stand for: errors, streaming and pure."""
