"""Labelled datasets and the unlabelled corpus U, from files, data frames and the hub."""
