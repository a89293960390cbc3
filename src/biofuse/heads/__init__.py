"""Classifiers on a fused matrix."""
