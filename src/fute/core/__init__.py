"""Words, errors, configuration and storage that every other room builds on. No torch."""
