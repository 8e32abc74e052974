"""Encoders, each with the forward pass that its published weights were trained with."""
