"""Training on several processes: how they start, and what Lightning needs to drive them."""
