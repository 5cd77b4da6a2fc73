"""What figures share: colours, axes, bins, labels."""
