from .environment import environment
from .language import ENGLISH, LANGUAGES, Language, Translator, sentence

__all__ = [
    "ENGLISH",
    "LANGUAGES",
    "Language",
    "Translator",
    "environment",
    "sentence",
]
