from .choice import ChosenNetwork, Runtime, choose_network

__all__ = [
    "ChosenNetwork",
    "Runtime",
    "choose_network",
]
