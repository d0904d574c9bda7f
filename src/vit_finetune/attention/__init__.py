"""Self-attention: captured with proof, turned into maps, judged against baselines, drawn."""
