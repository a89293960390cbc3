"""Runs encoders over samples into the store."""
