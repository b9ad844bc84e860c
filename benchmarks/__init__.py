"""Figures that fute promises, each measured by name: `make bench NAME=label-plain`."""
