"""Training on several processes: what Lightning needs to drive them."""
