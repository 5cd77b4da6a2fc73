"""What the dashboard keeps: settings, links, runs, predictions and their files."""
