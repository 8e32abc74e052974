"""Sections of ``node.yaml`` that several parts of the node read; ``hospital.config`` combines them."""
