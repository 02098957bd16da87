"""recemb: an embedding-table engine for recommender systems."""
