"""Surrogates Θ_T: the one model through which every dataset and every black box is seen."""
