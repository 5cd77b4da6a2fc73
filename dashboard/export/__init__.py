"""From a report to a file or a table."""
