"""The example data and configuration that `fute init` and `fute demo` write out."""
