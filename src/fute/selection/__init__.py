"""Which one, and how sure: rankings, intervals, metrics and baselines. No torch."""
