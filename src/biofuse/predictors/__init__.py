"""What maps blocks to probabilities: a fusion and a head, or several such combined."""
