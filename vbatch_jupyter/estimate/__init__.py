"""What a batch would ask, compute and cost; nothing is run."""
