"""`python -m fute`."""

from fute.cli.main import main

main()
