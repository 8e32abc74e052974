"""The node's work queue, in a database that survives a crash at any moment.

A study goes ``received -> complete -> predicted -> sent -> committed``, or ends as ``dead`` with a reason. Each step is
one idempotent transaction: instances are identified by their UID, the UIDs of results are derived from what they were
made of, and each result is delivered once per destination. A late instance reopens its study.

``Queue`` is the interface. The tables are defined in ``schema``, and the steps in a module for each stage:
``receiving``, ``completing``, ``predicting``, ``sending``, ``keeping``, ``removed_routes``, and
``answering`` for answers and the feedback on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
