"""Sections of ``node.yaml`` that are read by several rooms of the node; ``hospital.config`` puts them together."""
