"""A bundle behind a PACS: receive -> queue -> predict -> results -> send. Needs the extra ``[hospital]``."""
