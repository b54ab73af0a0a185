"""What a run is made by, without PyTorch: how it trains, and what its artifact records."""
