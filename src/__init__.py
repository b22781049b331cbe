"""Block selection for feature-norm out-of-distribution detection, on PyTorch Lightning."""
