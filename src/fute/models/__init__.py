"""Black boxes Θ_M: anything that answers. What they are made of stays behind `predict`."""
