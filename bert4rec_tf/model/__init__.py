"""The Transformer (paper section 3): embeddings, encoder, output layer and losses."""
