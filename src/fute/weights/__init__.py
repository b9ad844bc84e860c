"""Finding and loading model weights: the only room that knows where they lie."""
