"""Prompt templates and verbalizers: the text side of a prompted LLM."""
