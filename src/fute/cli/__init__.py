"""The command line: thin, over `fute.project`."""
