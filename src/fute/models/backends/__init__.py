"""Engines that run LLMs."""
