"""The paper's experiments, on real data: `fute reproduce`."""
