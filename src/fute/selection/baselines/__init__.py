"""Other ways to choose a prompt, to compare with. Each gives one score per candidate, higher is better."""
