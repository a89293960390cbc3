"""What a person reads: pages, figures, model cards."""
