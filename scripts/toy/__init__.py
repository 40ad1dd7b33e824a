"""The toy model: its world, its training and its evaluation."""
