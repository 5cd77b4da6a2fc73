"""Numbers and judgements derived from a report; nothing here draws."""
