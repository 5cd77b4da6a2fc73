"""From a budget to a configuration; configurations run for real."""
