"""What every HTML page of the program shares: one layout, one style, one way to be translated."""

from med_transfer.page.environment import environment
from med_transfer.page.language import ENGLISH, LANGUAGES, Language, Translator, sentence

__all__ = ["ENGLISH", "LANGUAGES", "Language", "Translator", "environment", "sentence"]
