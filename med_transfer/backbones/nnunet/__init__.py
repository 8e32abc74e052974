"""nnU-Net's own description of a network, read from its plans, dataset and checkpoint files."""
